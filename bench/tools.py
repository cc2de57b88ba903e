"""Programs that benchmarks call."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.rows import ROOT


def find_uv() -> list[str] | None:
    """How uv is called here; None where it is not installed."""
    for path in (shutil.which("uv"), ROOT / ".venv-uv" / "bin" / "uv"):
        if path and Path(path).exists():
            return [str(path)]
    if subprocess.run([sys.executable, "-m", "uv", "--version"], capture_output=True).returncode == 0:
        return [sys.executable, "-m", "uv"]
    return None
