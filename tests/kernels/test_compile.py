"""Every kernel compiles for an H200, without a GPU: what the interpreter forgives, the compiler does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_kernels_compile_for_sm_90_without_spills(tmp_path: Path) -> None:
    """In a process of its own, without the interpreter. Registers that do not fit would go to local memory."""
    command = [sys.executable, "-m", "bench.verify.compile_check"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) >= 10, done.stdout
    assert all(" spills 0" in line for line in lines), done.stdout
