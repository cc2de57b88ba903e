"""Rollouts on simulated clusters: the paper's tables again, and what it leaves open."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """The benchmark's command."""
    from bench.sim.command import main as run

    return run(argv)
