"""Gets ArcticInference: pinned, built from its PyPI source, in a folder of its own beside the environment."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.draft.drafter import PeerUnavailable
from bench.tools import find_uv

VERSION = "0.3.0"
ROOT = Path(__file__).resolve().parents[3]
# build/ is ignored by git; the Python version is part of the name because the package holds an extension module.
FOLDER = ROOT / "build" / "peers" / f"arctic-inference-{VERSION}-py{sys.version_info[0]}{sys.version_info[1]}"


def load(folder: Path = FOLDER) -> Any:
    """The module arctic_inference.suffix_decoding. Installs it first where it is missing; needs network, cmake and g++.

    Raises PeerUnavailable if it cannot be had.
    """
    if installed_version(folder) != VERSION:
        install(folder)
    if str(folder) not in sys.path:
        # At the end: nothing of the environment is hidden by what lies there.
        sys.path.append(str(folder))
    try:
        return importlib.import_module("arctic_inference.suffix_decoding")
    except ImportError as error:
        raise PeerUnavailable(f"ArcticInference {VERSION} was installed but cannot be imported: {error}") from error


def installed_version(folder: Path) -> str | None:
    """The version that lies in the folder, by the package's own metadata."""
    for metadata in folder.glob("arctic_inference-*.dist-info/METADATA"):
        found = re.search(r"^Version: (.+)$", metadata.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return None


def install(folder: Path) -> None:
    """Builds the pinned version into the folder; a failed build leaves nothing behind."""
    command = [*_uv(), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    print(
        f"draft: building arctic-inference {VERSION} once (about a minute; needs network, cmake, g++)", file=sys.stderr
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        target = Path(work) / "package"
        done = subprocess.run(
            [*command, "--target", str(target), f"arctic-inference=={VERSION}"], capture_output=True, text=True
        )
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise PeerUnavailable(f"arctic-inference {VERSION} could not be installed: " + " / ".join(lines[-5:]))
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)


def _uv() -> list[str]:
    if found := find_uv():
        return found
    raise PeerUnavailable("arctic-inference needs uv to be installed; it is neither on PATH nor in .venv-uv")
