"""Seer's samples against stock SGLang's on this machine, with and without CUDA graphs and overlap scheduling."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """The benchmark's command."""
    from bench.equality.command import main as run

    return run(argv)
