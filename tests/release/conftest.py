"""What `./run build` makes of the files that git knows, and an environment in which only that is installed."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

BUILD_TIMEOUT_S = 500
COMMAND_TIMEOUT_S = 400


@dataclass(frozen=True, slots=True)
class Built:
    """sdist, wheel: of sglang-seer; the wheel was built from the sdist. platform: wheel of the CPU platform."""

    sdist: Path
    wheel: Path
    platform: Path


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with the built wheels. What they depend on is read from the tests' own."""

    python: Path
    folder: Path

    def run(self, *arguments: str, more: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """`python ARGUMENTS` in an empty folder, without anything of this checkout on its path."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SGLANG_", "PYTHON"))}
        return subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder,
            env={**kept, "HF_HUB_OFFLINE": "1", **(more or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )


def build(tree: Path, out: Path) -> None:
    """sdist, and the wheel from the sdist, as in `./run build`."""
    command = [sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", str(out), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def known_files(repository: Path, tree: Path) -> None:
    """A copy of what git knows: nothing that lies around may get into a release, nor be missed in one."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listing.stdout.split("\0")):
        source, target = repository / name, tree / name
        # Deleted and not committed yet.
        if os.path.lexists(source):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target, follow_symlinks=False)


@pytest.fixture(scope="session")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("release")
    known_files(repository, folder / "tree")
    for tree in (folder / "tree", folder / "tree" / "cpu_platform"):
        build(tree, folder / "dist")

    def only(pattern: str) -> Path:
        (found,) = (folder / "dist").glob(pattern)
        return found

    return Built(only("sglang_seer-*.tar.gz"), only("sglang_seer-*.whl"), only("sglang_seer_cpu-*.whl"))


@pytest.fixture(scope="session")
def environment(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh one by uv. SGLang and torch, 9.5 GB, are not installed again: a .pth file names where they are.

    The checkout's own editable installation is not seen there: only `site` follows the .pth file that it consists of.
    """
    folder = tmp_path_factory.mktemp("clean")
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder / "venv")], check=True, timeout=300)
    python = folder / "venv" / "bin" / "python"
    wheels = [str(built.wheel), str(built.platform)]
    command = [*uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(python), *wheels]
    subprocess.run(command, check=True, timeout=300)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    (folder / "empty").mkdir()
    return Environment(python, folder / "empty")
