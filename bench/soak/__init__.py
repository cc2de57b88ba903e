"""Two engines under kills and weight updates for as long as wanted, and one engine with a very long queue."""

from bench.soak.command import main

__all__ = ["main"]
