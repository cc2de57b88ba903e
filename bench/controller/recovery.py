"""How long until everything goes on after one of two engines is killed (-9), and what is computed again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from bench.controller.cpu_engines import Tokens, check_equal, engine, prompts, roll_out, tokens_of, wait_for
from bench.reality.engines import flush
from bench.rows import Row, median_row
from sglang_seer.demo.servers import Server
from sglang_seer.rollout import Prompt, RolloutConfig, RolloutController, Sample
from sglang_seer.rollout.timing import run

POLL_S = 0.005
Kill = Callable[[RolloutController], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """stream_tokens: an engine sends what it has after so many; the killed one had sent all but the last of them."""

    prompts: int
    samples: int
    limit: int
    chunk_tokens: int
    stream_tokens: int

    @property
    def name(self) -> str:
        return (
            f"{self.prompts * self.samples} responses of {self.limit:,} tokens, chunks of {self.chunk_tokens:,}, "
            f"an event each {self.stream_tokens}"
        )


FULL = Case(prompts=4, samples=6, limit=1024, chunk_tokens=256, stream_tokens=32)
QUICK = Case(prompts=2, samples=4, limit=160, chunk_tokens=40, stream_tokens=8)


class Recovered(NamedTuple):
    """first_s, last_s: from the kill until the first and the last of the broken requests were sent elsewhere.

    requests: how many were broken off. again_tokens: most tokens that one of them may have generated again.
    """

    first_s: float
    last_s: float
    requests: int
    again_tokens: int


def measure(case: Case, repetitions: int) -> list[Row]:
    """Rows. Raises ValueError where samples differ from an undisturbed run, ServerError where an engine fails."""
    wanted = prompts(case.prompts, samples=case.samples, limit=case.limit, seed=2)
    runs: list[Recovered] = []
    with tempfile.TemporaryDirectory() as folder, engine("stays", wanted, Path(folder)) as stays:
        undisturbed: Tokens | None = None
        for number in range(repetitions):
            with engine(f"goes-{number}", wanted, Path(folder)) as goes:
                wait_for([stays, goes])
                if undisturbed is None:
                    undisturbed = tokens_of(run(_roll_out([stays], wanted, case, None)))
                flush(stays)
                one = run(_killed(stays, goes, wanted, case, undisturbed))
            runs.append(one)
            print(f"controller: recovery, run {number + 1}: {one}", file=sys.stderr, flush=True)
    return [
        median_row("controller", "seer", case.name, metric, [float(getattr(one, metric)) for one in runs], unit)
        for metric, unit in (("first_s", "s"), ("last_s", "s"), ("requests", "requests"), ("again_tokens", "tokens"))
    ]


async def _killed(stays: Server, goes: Server, wanted: Sequence[Prompt], case: Case, undisturbed: Tokens) -> Recovered:
    killed_s: list[float] = []

    async def kill(rollout: RolloutController) -> None:
        url = goes.plan.url
        # Chunks have ended there, and others are under way.
        while rollout.buffer.engines[url].in_flight < 2 or not any(
            chunk.engine == url for request in rollout.buffer.unfinished() for chunk in request.chunks
        ):
            await asyncio.sleep(POLL_S)
        killed_s.append(time.time())
        os.killpg(goes.process.pid, signal.SIGKILL)

    samples = await _roll_out([stays, goes], wanted, case, kill)
    check_equal(tokens_of(samples), undisturbed, "after the kill")
    return recovered(samples, killed_s[0], case.chunk_tokens)


def recovered(samples: Sequence[Sample], killed_s: float, chunk_tokens: int) -> Recovered:
    """From the samples' chunks. Raises ValueError where the kill broke nothing off."""
    after_s, again_tokens = [], 0
    for sample in samples:
        for lost, after in pairwise(sample.chunks):
            if lost.end.startswith("connection"):
                after_s.append(after.started_s - killed_s)
                again_tokens = max(again_tokens, chunk_tokens - lost.tokens)
    if not after_s:
        raise ValueError("the kill broke no chunk off: wanted a longer rollout")
    return Recovered(min(after_s), max(after_s), len(after_s), again_tokens)


async def _roll_out(servers: Sequence[Server], wanted: Sequence[Prompt], case: Case, kill: Kill | None) -> list[Sample]:
    config = RolloutConfig(chunk_tokens=case.chunk_tokens, stream_tokens=case.stream_tokens)
    async with RolloutController([server.plan.url for server in servers], config=config) as rollout:
        killer = asyncio.create_task(kill(rollout)) if kill is not None else None
        samples, _ = await roll_out(rollout, wanted)
        if killer is not None:
            await killer
        return samples
