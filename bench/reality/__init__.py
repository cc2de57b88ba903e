"""The simulator against engines: the same rollout on CPU engines and in a simulation fitted to them."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """The benchmark's command."""
    from bench.reality.command import main as run

    return run(argv)
