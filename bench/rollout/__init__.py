"""The same rollout under stock SGLang's settings and under Seer's techniques, on CPU engines."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """The benchmark's command."""
    from bench.rollout.command import main as run

    return run(argv)
