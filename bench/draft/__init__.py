"""The draft index against its peers; see `command`."""

from bench.draft.command import main

__all__ = ["main"]
