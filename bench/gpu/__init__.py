"""What only a GPU can tell, in one command for one CUDA host without a network; and what that host needs, packed."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """The benchmark's command."""
    from bench.gpu.command import main as run

    return run(argv)
