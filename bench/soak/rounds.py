"""Rollouts on two engines, of which one or both are killed now and then, with new weights in between.

Every sample must come once and be that of an undisturbed rollout. The first half has the kills; in the second, calm one
memory is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bench.controller.cpu_engines import Tokens, check_equal, prompts, tokens_of
from bench.reality.engines import START_TIMEOUT_S
from bench.soak.engines import ENGINES, Fleet, fleet, status_of
from bench.soak.memory import LEAST_LOOKS, LOOK_S, MIB, Growth, Memory, leaks
from sglang_seer.rollout import Prompt, RolloutConfig, RolloutController, Sample
from sglang_seer.rollout.timing import run

POLL_S = 0.02
UPDATE_EVERY = 3
# Sockets of a controller that has just ended may take a moment.
SPARE_FILES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One rollout: prompts x samples of at most `limit` tokens; running: most at once on an engine."""

    prompts: int = 4
    samples: int = 6
    limit: int = 256
    chunk_tokens: int = 64
    running: int = 8

    @property
    def pool(self) -> int:
        """KV slots of an engine: not all that run reach the limit."""
        return self.running * self.limit * 3 // 4


@dataclass(slots=True)
class Outcome:
    """What was seen. faults: everything that must not be; empty if all went well."""

    rollouts: int = 0
    samples: int = 0
    tokens: int = 0
    kills: int = 0
    updates: int = 0
    broken_chunks: int = 0
    received_tokens: int = 0
    minutes: float = 0.0
    growth: list[Growth] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def soak(minutes: float, seed: int, work: Work = Work()) -> Outcome:
    """At least one kill and one update, and on until `minutes` have passed since the start.

    Raises ValueError for a sample that is lost, doubled or another one, ServerError where an engine does not start.
    """
    began_s = time.monotonic()
    me = psutil.Process()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with fleet(folder, pool=work.pool, running=work.running) as engines:
            for server in engines.servers:
                server.wait_until_ready(START_TIMEOUT_S)
            files = me.num_fds()
            seen = run(_Soak(engines, work, random.Random(seed), began_s, minutes).run())
            if (left := me.num_fds() - files) > SPARE_FILES:
                seen.faults.append(f"the controller left {left} open files, wanted at most {SPARE_FILES}")
            seen.faults += engines.faults()
        # Stopped by now, all that ever ran.
        if alive := engines.alive():
            seen.faults.append(f"processes of {', '.join(alive)} are left")
    seen.minutes = (time.monotonic() - began_s) / 60
    return seen


class _Soak:
    def __init__(self, engines: Fleet, work: Work, chance: random.Random, began_s: float, minutes: float) -> None:
        self.engines, self.work, self.chance = engines, work, chance
        self.began_s, self.end_s = began_s, began_s + 60 * minutes
        self.seen = Outcome()
        me = psutil.Process()
        self.memory = Memory(lambda: {"controller": me.memory_info().rss / MIB, **engines.rss_mib()})
        # One, the other, both; and again.
        first = chance.randrange(ENGINES)
        self.victims = [(first,), (1 - first,), (0, 1)]
        self.wanted: dict[str, Tokens] = {}

    async def run(self) -> Outcome:
        config = RolloutConfig(
            chunk_tokens=self.work.chunk_tokens, stream_tokens=16, poll_s=0.2, most_backoff_s=1.0, no_engine_s=240.0
        )
        async with RolloutController(self.engines.urls, config=config) as rollout:
            for version in self.engines.weights:
                await self._update(rollout, version)
                samples = await self._roll_out(rollout)
                self.wanted[version] = tokens_of(samples)
            if len({str(sorted(one.items())) for one in self.wanted.values()}) < len(self.wanted):
                raise ValueError("both checkpoints give the same samples: an update would not be seen")
            self._say("both checkpoints have their samples")
            watch = asyncio.create_task(self.memory.watch())
            try:
                calm_s = await self._disturbed(rollout)
                await self._calm(rollout, calm_s)
            finally:
                watch.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watch
            await self._account(rollout, calm_s)
        return self.seen

    async def _disturbed(self, rollout: RolloutController) -> float:
        """Until half of the time that is left has passed; when the last engine was back (monotonic clock)."""
        half_s = (time.monotonic() + self.end_s) / 2
        while not self.seen.kills or time.monotonic() < half_s:
            if self.seen.rollouts % UPDATE_EVERY == 0:
                await self._update(rollout, self._other_version())
            # The first rollout, and then as chance has it.
            kills = not self.seen.kills or self.chance.random() < 0.5
            await self._checked(rollout, self.victims[self.seen.kills % len(self.victims)] if kills else ())
            await _until(lambda: len(rollout.buffer.up) == ENGINES, "killed engines that serve again", START_TIMEOUT_S)
        return time.monotonic()

    async def _calm(self, rollout: RolloutController, calm_s: float) -> None:
        since = self.seen.rollouts
        # Long enough for a line through the looks, which a busy machine may delay.
        end_s = max(self.end_s, time.monotonic() + 2 * LEAST_LOOKS * LOOK_S)
        last_s = end_s + 10 * LEAST_LOOKS * LOOK_S
        while (now_s := time.monotonic()) < end_s or (now_s < last_s and len(self.memory.growth(calm_s)) <= ENGINES):
            if self.seen.rollouts % UPDATE_EVERY == 0 or self.seen.rollouts == since:
                await self._update(rollout, self._other_version())
            await self._checked(rollout, ())

    async def _checked(self, rollout: RolloutController, victims: tuple[int, ...]) -> None:
        killer = asyncio.create_task(self._kill(rollout, victims)) if victims else None
        samples = await self._roll_out(rollout)
        if killer is not None:
            await killer
        what = f"rollout {self.seen.rollouts}, weights {self.engines.version}, killed {list(victims)}"
        twice = [key for key, count in Counter((one.group, one.sample) for one in samples).items() if count > 1]
        if twice:
            raise ValueError(f"{what}: sample {twice[0]} came more than once")
        check_equal(tokens_of(samples), self.wanted[self.engines.version], what)
        if versions := {str(one) for sample in samples for one in sample.weight_versions} - {self.engines.version}:
            raise ValueError(f"{what}: samples of weights {sorted(versions)}")
        self.seen.samples += len(samples)
        self.seen.tokens += sum(len(sample.output_ids) for sample in samples)
        broken = sum(chunk.end.startswith("connection") for sample in samples for chunk in sample.chunks)
        self.seen.broken_chunks += broken
        self._say(f"{what}: {len(samples)} samples as wanted, {broken} chunks broke off")

    async def _roll_out(self, rollout: RolloutController) -> list[Sample]:
        self.seen.rollouts += 1
        return [sample async for sample in rollout.samples(self._prompts())]

    def _say(self, what: str) -> None:
        print(f"soak: {time.monotonic() - self.began_s:,.0f} s: {what}", file=sys.stderr, flush=True)

    def _prompts(self) -> list[Prompt]:
        return prompts(self.work.prompts, samples=self.work.samples, limit=self.work.limit, seed=5)

    async def _kill(self, rollout: RolloutController, victims: tuple[int, ...]) -> None:
        for number in victims:
            await self._kill_one(rollout, number)

    async def _kill_one(self, rollout: RolloutController, number: int) -> None:
        url = self.engines.urls[number]
        # In mid-chunk; where the rest of the rollout has no chunk for it, it is killed idle.
        with contextlib.suppress(TimeoutError):
            await _until(lambda: rollout.buffer.engines[url].in_flight > 1, "chunks on the engine", 20.0)
        self.engines.kill(number)
        self.seen.kills += 1
        await _until(lambda: url not in rollout.buffer.up, "an engine that is known to be dead", 60.0)
        self.engines.restart(number)

    def _other_version(self) -> str:
        return next(version for version in self.engines.weights if version != self.engines.version)

    async def _update(self, rollout: RolloutController, version: str) -> None:
        await rollout.update_weights(self.engines.weights[version], version)
        self.engines.version = version
        self.seen.updates += 1

    async def _account(self, rollout: RolloutController, calm_s: float) -> None:
        seen = self.seen
        seen.growth = self.memory.growth(calm_s)
        seen.faults += leaks(seen.growth)
        if len(seen.growth) < 1 + ENGINES:
            seen.faults.append(f"memory of {len(seen.growth)} processes was seen for long enough, wanted {1 + ENGINES}")
        if seen.kills and not seen.broken_chunks:
            seen.faults.append("no kill broke a chunk off: nothing was shown")
        if len(files := self.engines.meeting()) != 2 * ENGINES:
            seen.faults.append(f"bus: files {files}, wanted a socket and a lock of each of {ENGINES} engines")
        if reserved := [engine.reserved_tokens for engine in rollout.buffer.engines.values() if engine.reserved_tokens]:
            seen.faults.append(f"the request buffer holds {reserved} tokens for nobody")
        for server in self.engines.servers:
            state = await status_of(server.plan.url)
            seen.received_tokens += state["bus"]["received_tokens"]
        if not seen.received_tokens:
            seen.faults.append("no engine got text from the other")


async def _until(there: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Raises TimeoutError."""
    end_s = time.monotonic() + timeout_s
    while not there():
        if time.monotonic() > end_s:
            raise TimeoutError(f"after {timeout_s:.0f} s: wanted {what}")
        await asyncio.sleep(POLL_S)
