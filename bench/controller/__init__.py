"""One controller process against many stand-in engines."""

from bench.controller.command import main

__all__ = ["main"]
