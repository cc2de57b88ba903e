"""What the plugin costs where it is off or only watches."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """The benchmark's command."""
    from bench.observe.command import main as run

    return run(argv)
