"""Runs in an engine's process: each decode step has the width that is due, and what it took is written down.

A step verifies its root and padding, as wide as a tree would be: nothing is drafted, so every request gets one token a
step and each batch keeps its size. The clock is the one by which Seer learns step times while serving.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from sglang_seer_cpu.import_hooks import after_import

PATH = "SGLANG_SEER_BENCH_STEPS"
SITECUSTOMIZE = "from bench.steps import engine; engine.install()\n"
# Steps of a width in a row, and how many of them come after another width's and are left out.
HOLD, SETTLE = 12, 3


def due(step: int, widths: Sequence[int]) -> tuple[int, bool]:
    """Nodes beyond the root of a step by its number, and whether its time counts."""
    return widths[step // HOLD % len(widths)], step % HOLD >= SETTLE


def install() -> None:
    """Plant the hook, where a file is named."""
    if PATH in os.environ:
        after_import("sglang_seer.engine.pacing", lambda module: force_widths(module, Path(os.environ[PATH])))


def force_widths(module: ModuleType, path: Path) -> None:
    """Lines of `path`: one a step whose time counts, with the fields of a `StepObservation`."""
    begin = module.Pacer.begin
    step = 0
    counts = False

    def timed_begin(self: Any, batch: int) -> int:
        running = self._running
        begin(self, batch)
        if running is not None and counts:
            size, rows, context, since = running
            line = {"batch": size, "rows": rows, "context": context, "seconds": self._asked - since}
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return 0

    def forced_choice(self: Any, proposal: Any, context: int, _priorities: Any) -> tuple[Any, int]:
        nonlocal step, counts
        width, counts = due(step, self._widths)
        step += 1
        batch = len(proposal.starts) - 1
        self._running = (batch, batch * (1 + width), context, self._clock())
        return proposal, width

    module.Pacer.begin, module.Pacer.choose = timed_begin, forced_choice
