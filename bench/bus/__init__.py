"""Benchmark of the token bus."""

from bench.bus.command import main

__all__ = ["main"]
