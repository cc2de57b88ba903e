"""Length models against each other on real and generated response lengths; see `command`."""

from bench.lengths.command import main

__all__ = ["main"]
