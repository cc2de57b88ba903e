"""Records of an engine that is stepped through one token at a time: what is predicted is known from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sglang_seer.draft.step_time import StepObservation
from sglang_seer.observe.record import Record, Response, Steps, Window
from sglang_seer.sim import StepTime

TRUE = StepTime(overhead_s=0.01, weights_s=0.0, row_s=5e-4, context_s=1e-6)
MAX_RUNNING = 16
PROMPT = 20
LIMIT = 1000


def lengths(seed: int, groups: int, size: int) -> list[list[int]]:
    """Siblings resemble each other."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(4.6, 0.8, (groups, 1))
    found = np.exp(middle + rng.normal(0.0, 0.2, (groups, size))).clip(2, 900)
    return [[int(one) for one in row] for row in found]


def stepped(groups: Sequence[Sequence[int]], arrivals: Sequence[float] | None = None) -> list[Response]:
    """First come, first served, without a limit of memory; siblings share their prompt's prefill."""
    of = [(number, length) for number, row in enumerate(groups) for length in row]
    arrivals = arrivals or [0.0] * len(of)
    waiting, running = list(range(len(of))), dict[int, int]()
    first: dict[int, float] = {}
    done: list[Response] = []
    prefilled: set[int] = set()
    now = 0.0
    while waiting or running:
        if not running and waiting:
            now = max(now, arrivals[waiting[0]])
        while waiting and len(running) < MAX_RUNNING and arrivals[waiting[0]] <= now:
            number = waiting.pop(0)
            if of[number][0] not in prefilled:
                prefilled.add(of[number][0])
                now += TRUE.batch_seconds(PROMPT)
            running[number], first[number] = 0, now
        now += TRUE.seconds(len(running), sum(PROMPT + made for made in running.values()))
        for number in list(running):
            running[number] += 1
            group, length = of[number]
            if running[number] == length:
                del running[number]
                done.append(Response(group, PROMPT, length, LIMIT, arrivals[number], first[number], now, 0))
    return done


def window(responses: Sequence[Response], **changes: int) -> Window:
    return Window(responses=list(responses), **({"running": 0, "aborted": 0, "chunks": 0, "left_out": 0} | changes))


def record(*windows: Window, drafts: Sequence[Steps] = (), **changes: object) -> Record:
    """Of an engine whose steps were timed at several sizes."""
    sizes = [(rows, context) for rows in (1, 2, 4, 8, 16, 80) for context in (200, 2000, 6000)]
    steps = [
        StepObservation(batch=min(rows, MAX_RUNNING), rows=rows, context=context, seconds=TRUE.seconds(rows, context))
        for rows, context in sizes
    ]
    fields = {"policy": "fcfs", "speculation": None, "kv_capacity_tokens": 100_000, "max_running": MAX_RUNNING}
    return Record(windows=list(windows), drafts=list(drafts), **({"steps": steps} | fields | changes))  # type: ignore[arg-type]
