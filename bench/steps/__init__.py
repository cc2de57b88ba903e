"""What a step of an engine takes by batch, draft nodes and context, on models with random weights of any size."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """The benchmark's command."""
    from bench.steps.command import main as run

    return run(argv)
