"""What the controller costs under load: one process of it against stand-in engines of another process.

The engines compute nothing, and end a wanted number of chunks a second whatever the controller does. Measured is the
controller's own CPU time, and whether the load was there.
"""

from __future__ import annotations

import asyncio
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.rows import ROOT, Row, median_row
from sglang_seer.rollout import Prompt, RolloutConfig, RolloutController
from sglang_seer.rollout.timing import run

PROMPT_TOKENS = 256
SAMPLES = 16
CHUNKS = 4
# Some places more than wanted in flight: a chunk's place is free until the next pass.
SPARE = 1.03
# The load was there if so much of it was.
REACHED = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """in_flight: requests. rate: chunks that end a second. seconds: measured, after a warm-up."""

    engines: int
    in_flight: int
    rate: int
    chunk_tokens: int
    seconds: float

    @property
    def case(self) -> str:
        return f"{self.engines} engines, {self.in_flight:,} in flight, {self.rate:,} chunks/s wanted"


class Measured(NamedTuple):
    """Shares are of one core. in_flight: median. memory_mb: largest resident set of the process until then."""

    chunks_a_second: float
    cpu_share: float
    cpu_a_pass_s: float
    passes_a_second: float
    in_flight: int
    memory_mb: float
    engines_cpu_share: float

    def shortfalls(self, load: Load) -> list[str]:
        """What of the wanted load was not there; empty where the numbers hold for it."""
        seen = {"chunks/s": (self.chunks_a_second, load.rate), "in flight": (self.in_flight, load.in_flight)}
        return [
            f"{value:,.0f} {name} of {wanted:,} wanted"
            for name, (value, wanted) in seen.items()
            if value < REACHED * wanted
        ]


def measure(load: Load, repetitions: int) -> tuple[list[Row], list[str]]:
    """Rows, and what of the load was not reached, by repetition."""
    runs, short = [], []
    for number in range(repetitions):
        one = run(_measure(load))
        runs.append(one)
        short += [f"run {number + 1}: {text}" for text in one.shortfalls(load)]
        print(f"controller: load, run {number + 1}: {one}", file=sys.stderr, flush=True)

    def row(metric: str, unit: str, of: Callable[[Measured], float]) -> Row:
        return median_row("controller", "seer", load.case, metric, [of(one) for one in runs], unit)

    return [
        row("chunks_a_second", "1/s", lambda one: one.chunks_a_second),
        row("cpu_share", "cores", lambda one: one.cpu_share),
        row("cpu_a_chunk", "us", lambda one: 1e6 * one.cpu_share / one.chunks_a_second),
        row("cpu_a_pass", "ms", lambda one: 1e3 * one.cpu_a_pass_s),
        row("passes_a_second", "1/s", lambda one: one.passes_a_second),
        row("in_flight", "requests", lambda one: one.in_flight),
        row("peak_memory", "MB", lambda one: one.memory_mb),
        row("engines_cpu_share", "cores", lambda one: one.engines_cpu_share),
    ], short


class _Engines:
    """The other process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.urls: list[str] = self._line()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def cpu_s(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return float(self._line())


@contextmanager
def _engines(load: Load) -> Iterator[_Engines]:
    tokens = CHUNKS * load.chunk_tokens
    room = 2 * load.in_flight * (PROMPT_TOKENS + tokens) // load.engines
    # SGLang, too, sends a chunk in four events if it is not told otherwise.
    numbers = (load.engines, load.rate, load.in_flight, 4, tokens, room)
    with subprocess.Popen(
        [sys.executable, "-m", "bench.controller.engines", *map(str, numbers)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            yield _Engines(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


class _Passes:
    """Counts the passes over the waiting requests, and their CPU time."""

    def __init__(self, assign: Callable[..., Sequence[Any]]) -> None:
        self._assign = assign
        self.count, self.cpu_s = 0, 0.0

    def __call__(self, *arguments: Any) -> Sequence[Any]:
        began_s = time.thread_time()
        assigned = self._assign(*arguments)
        self.cpu_s += time.thread_time() - began_s
        self.count += 1
        return assigned


async def _measure(load: Load) -> Measured:
    config = RolloutConfig(
        chunk_tokens=load.chunk_tokens,
        max_running=math.ceil(SPARE * load.in_flight / load.engines),
        buffer_requests=load.in_flight + load.in_flight // 4,
        silent_s=60.0,
        connect_s=60.0,
    )
    with _engines(load) as engines:
        async with RolloutController(engines.urls, config=config) as rollout:
            passes = _Passes(rollout.buffer.assign)
            rollout.buffer.assign = passes  # type: ignore[assignment,method-assign]
            consumer = asyncio.create_task(_consume(rollout, load.chunk_tokens * CHUNKS))
            while rollout.buffer.running < REACHED * load.in_flight:
                if consumer.done():
                    await consumer
                await asyncio.sleep(0.1)
            # Until requests are in all places of their chunks.
            await asyncio.sleep(2 * load.in_flight / load.rate)
            engines_s, began_s, cpu_s = engines.cpu_s(), time.monotonic(), time.process_time()
            chunks, count, pass_s = rollout.counts.chunks, passes.count, passes.cpu_s
            seen = []
            while time.monotonic() - began_s < load.seconds:
                await asyncio.sleep(0.25)
                seen.append(rollout.buffer.running)
            took_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
            count = passes.count - count
            measured = Measured(
                (rollout.counts.chunks - chunks) / took_s,
                cpu_s / took_s,
                (passes.cpu_s - pass_s) / max(count, 1),
                count / took_s,
                sorted(seen)[len(seen) // 2],
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                (engines.cpu_s() - engines_s) / took_s,
            )
            if rollout.counts.broken:
                raise RuntimeError(f"chunks broke: {rollout.counts.broken}")
            consumer.cancel()
            await asyncio.gather(consumer, return_exceptions=True)
    return measured


async def _consume(rollout: RolloutController, limit: int) -> None:
    def prompts() -> Iterator[Prompt]:
        number = 0
        while True:
            input_ids = [number % 30_000 + 3] * PROMPT_TOKENS
            sampling = {"max_new_tokens": limit}
            yield Prompt(group=f"g{number}", input_ids=input_ids, samples=SAMPLES, sampling=sampling)
            number += 1

    async for _ in rollout.samples(prompts()):
        pass
