"""The systems that are compared, one adapter a file."""

from __future__ import annotations

from importlib import import_module

from bench.draft.drafter import Config, Drafter, Shape


def make(config: Config, shape: Shape, *, vocab_size: int, capacity_tokens: int) -> Drafter:
    """A fresh, empty index. Raises PeerUnavailable if the system cannot be had here.

    capacity_tokens: what it is going to hold, for systems that reserve memory for it.
    """
    module = import_module(f"bench.draft.systems.{config.system}")
    drafter: Drafter = module.make(config.options, shape, vocab_size=vocab_size, capacity_tokens=capacity_tokens)
    return drafter
