"""Rollouts in which engines generate recorded responses, so that real text drives a model of any size."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """The benchmark's command."""
    from bench.replay.command import main as run

    return run(argv)
