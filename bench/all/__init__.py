"""All benchmarks that a CPU can run, one after the other."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """The benchmark's command."""
    from bench.all.command import main as run

    return run(argv)
