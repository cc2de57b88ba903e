"""Environments with the older SGLang lines, made with uv and kept between sessions."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

CPU_PLATFORM = Path(__file__).resolve().parents[2] / "cpu_platform"
LINES = ("0.5.15", "0.5.12")
# An environment is about 10 GB when the cache of uv has none of it.
NEEDED_FREE_BYTES = 25 << 30
INSTALL_TIMEOUT_S = 600.0


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
    named = os.environ.get(f"SGLANG_SEER_LINE_{line.replace('.', '_')}")
    if named:
        return str(Path(named) / "bin" / "python")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("SGLANG_SEER_LINES_FOLDER") or cache / "sglang-seer-lines") / line
    python = folder / "bin" / "python"
    complete = folder / ".complete"
    requirements = CPU_PLATFORM / f"requirements-{line}.txt"
    wanted = requirements.read_text()
    if not (complete.exists() and complete.read_text() == wanted):
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < NEEDED_FREE_BYTES:
            raise EnvironmentUnavailable(f"{free >> 30} GB free in {folder.parent}, wanted {NEEDED_FREE_BYTES >> 30}")
        _uv("venv", "--quiet", "--allow-existing", "--python", "3.11", str(folder))
        _uv("pip", "install", "--quiet", "--python", str(python), "--requirement", str(requirements))
        complete.write_text(wanted)
    _uv("pip", "install", "--quiet", "--python", str(python), "--no-deps", "--editable", str(CPU_PLATFORM))
    return str(python)


def _uv(*arguments: str) -> None:
    command = ["uv"] if shutil.which("uv") else [sys.executable, "-m", "uv"]
    try:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise EnvironmentUnavailable(f"uv {arguments[0]} took more than {INSTALL_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise EnvironmentUnavailable(f"uv {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")
