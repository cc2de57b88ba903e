"""Runs in an engine's process before its worker is made: drafts always pay, however fast the machine is."""

# Every look at the clock moves it on by a millisecond, so that a step takes as long as any other, whatever its width.
STEADY_CLOCK = """
from itertools import count
from sglang_seer.engine.pacing import Pacer
ticks = count()
Pacer.__init__.__kwdefaults__["clock"] = lambda: 0.001 * next(ticks)
"""
