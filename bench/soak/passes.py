"""Runs in an engine's process: times the policy's passes over the waiting queue."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

from sglang_seer_cpu.import_hooks import after_import


def install() -> None:
    """Call before SGLang is imported."""
    after_import("sglang_seer.engine.policy", _time_passes)


def _time_passes(module: ModuleType) -> None:
    policy = module.SeerSchedulePolicy
    original = policy.calc_priority
    seen = {"passes": 0, "seconds": 0.0, "longest_s": 0.0, "most_waiting": 0}
    module.STATUS.sources["passes"] = lambda: dict(seen)

    def calc_priority(self: Any, waiting_queue: list[Any], *more: Any, **named: Any) -> None:
        began_s = time.perf_counter()
        original(self, waiting_queue, *more, **named)
        took_s = time.perf_counter() - began_s
        seen["passes"] += 1
        seen["seconds"] += took_s
        seen["longest_s"] = max(seen["longest_s"], took_s)
        seen["most_waiting"] = max(seen["most_waiting"], len(waiting_queue))

    policy.calc_priority = calc_priority
