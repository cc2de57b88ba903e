"""Environments with the older SGLang lines, made with uv and kept between sessions."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CPU_PLATFORM = ROOT / "cpu_platform"
# What veRL's agent loops need, and where SGLang 0.5.12 pins another version.
VERL = ROOT / "tests" / "integrations" / "verl"
LINES = ("0.5.15", "0.5.12")
# An environment is about 10 GB when the cache of uv has none of it.
NEEDED_FREE_BYTES = 25 << 30
INSTALL_TIMEOUT_S = 600.0
VERL_ITSELF = "verl==0.9.1"


class EnvironmentUnavailable(Exception):
    """uv could not make the environment; the message says why."""


@functools.cache
def line_python(line: str) -> str:
    """The Python of an environment with that line of SGLang and this checkout's CPU platform.

    `SGLANG_SEER_LINE_0_5_15` (and `_0_5_12`) names an environment to use as it is. Else one is made in
    `SGLANG_SEER_LINES_FOLDER`, by default a folder in the user's cache, and found there the next time.

    Raises:
        EnvironmentUnavailable: no uv, no network, or not enough space.
    """
    if named := _named(line):
        return named
    folder = _folder(line)
    requirements = CPU_PLATFORM / f"requirements-{line}.txt"
    with _locked(folder):
        if not _is_done(folder / ".complete", requirements.read_text()):
            free = shutil.disk_usage(folder.parent).free
            if free < NEEDED_FREE_BYTES:
                raise EnvironmentUnavailable(
                    f"{free >> 30} GB free in {folder.parent}, wanted {NEEDED_FREE_BYTES >> 30}"
                )
            _uv("venv", "--quiet", "--allow-existing", "--python", "3.11", str(folder))
            _install(folder, "--requirement", str(requirements))
            (folder / ".complete").write_text(requirements.read_text())
        platform = f"{CPU_PLATFORM}\n{(CPU_PLATFORM / 'pyproject.toml').read_text()}"
        # Not each time: other processes may be looking at it.
        if not _is_done(folder / ".platform", platform):
            _install(folder, "--no-deps", "--editable", str(CPU_PLATFORM))
            (folder / ".platform").write_text(platform)
    return str(folder / "bin" / "python")


def verl_line_python() -> str:
    """The environment of SGLang 0.5.12, to which veRL has been added. Raises as `line_python` does."""
    python = line_python("0.5.12")
    if _named("0.5.12"):
        return python
    folder = _folder("0.5.12")
    requirements, overrides = VERL / "requirements.txt", VERL / "overrides-0.5.12.txt"
    wanted = requirements.read_text() + overrides.read_text()
    with _locked(folder):
        if not _is_done(folder / ".verl", wanted):
            _install(folder, "--requirement", str(requirements), "--overrides", str(overrides))
            _install(folder, "--no-deps", VERL_ITSELF)
            (folder / ".verl").write_text(wanted)
    return python


def plugin_folder(parent: Path) -> Path:
    """A folder for the path of an environment that this checkout is not installed in: tells entry points alone."""
    (entry_points,) = (file for file in distribution("sglang-seer").files or () if file.name == "entry_points.txt")
    metadata = Path(str(entry_points.locate())).parent
    (parent / metadata.name).symlink_to(metadata)
    return parent


def _named(line: str) -> str | None:
    named = os.environ.get(f"SGLANG_SEER_LINE_{line.replace('.', '_')}")
    return str(Path(named) / "bin" / "python") if named else None


def _folder(line: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("SGLANG_SEER_LINES_FOLDER") or cache / "sglang-seer-lines") / line


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Rooms of tests that run side by side make an environment once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_done(stamp: Path, wanted: str) -> bool:
    return stamp.exists() and stamp.read_text() == wanted


def _install(folder: Path, *arguments: str) -> None:
    _uv("pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *arguments)


def _uv(*arguments: str) -> None:
    command = ["uv"] if shutil.which("uv") else [sys.executable, "-m", "uv"]
    try:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise EnvironmentUnavailable(f"uv {arguments[0]} took more than {INSTALL_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise EnvironmentUnavailable(f"uv {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")
