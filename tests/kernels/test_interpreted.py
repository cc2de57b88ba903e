"""Runs the checks in `interpreted/` through Triton's interpreter.

Each file in a process of its own: TRITON_INTERPRET must be set before Triton is imported, and engines that other
tests start must not see it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKS = sorted((Path(__file__).parent / "interpreted").glob("check_*.py"))


def run_interpreted(target: Path | str, *options: str) -> subprocess.CompletedProcess[str]:
    """pytest on a file of checks."""
    # One thread: the interpreter's many small operations wait longer for a second than it helps.
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        # What SGLang's own functions need on a CPU.
        "TORCHDYNAMO_DISABLE": "1",
        "SGLANG_PLATFORM": "seer_cpu",
    }
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-m", "pytest", "-q", str(target), *options]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1200)


@pytest.mark.parametrize("check", CHECKS, ids=lambda path: path.stem.removeprefix("check_"))
def test_interpreted(check: Path) -> None:
    done = run_interpreted(check)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_checks_are_run() -> None:
    """A check that cannot be collected must not look green."""
    assert len(CHECKS) >= 6
    done = run_interpreted(CHECKS[0], "-k", "nothing_is_called_so")
    assert done.returncode == 5  # nothing collected
