"""What cutting into chunks costs: the same requests whole and in chunks, on one real engine, turn about.

In seconds, and in CPU time of the engine's processes, which says less of what else the machine does.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.controller.cpu_engines import Tokens, check_equal, engine, prompts, roll_out, tokens_of, wait_for
from bench.reality.engines import flush
from bench.rows import Row, median_row
from sglang_seer.demo.servers import Server
from sglang_seer.rollout import Prompt, RolloutConfig, RolloutController
from sglang_seer.rollout.timing import run


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """chunk_tokens: of the cut side. limit: tokens of every response, more than a chunk and within the context."""

    prompts: int
    samples: int
    limit: int
    chunk_tokens: int

    @property
    def name(self) -> str:
        return f"{self.prompts * self.samples} responses of {self.limit:,} tokens, chunks of {self.chunk_tokens:,}"


FULL = Case(prompts=2, samples=2, limit=3840, chunk_tokens=2048)
QUICK = Case(prompts=2, samples=2, limit=96, chunk_tokens=48)


def measure(case: Case, repetitions: int) -> list[Row]:
    """Rows. Raises ValueError where samples differ, ServerError where the engine fails."""
    wanted = prompts(case.prompts, samples=case.samples, limit=case.limit, seed=1)
    sides = {"whole": case.limit, "chunks": case.chunk_tokens}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    cpu_s: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder, engine("chunks", wanted, Path(folder)) as server:
        wait_for([server])
        first: Tokens | None = None
        # The first of all is not counted: the engine compiles and allocates.
        for number in range(-1, repetitions):
            for side in sorted(sides, reverse=number % 2 == 0):
                flush(server)
                before_s = _cpu_s(server)
                tokens, took_s = run(_roll_out(server.plan.url, wanted, sides[side]))
                first = first or tokens
                check_equal(tokens, first, f"repetition {number + 1}, {side}")
                if number >= 0:
                    seconds[side].append(took_s)
                    cpu_s[side].append(_cpu_s(server) - before_s)
                print(f"controller: chunks, run {number + 1}: {side} {took_s:.3f} s", file=sys.stderr, flush=True)
    rows = [median_row("controller", side, case.name, "seconds", seconds[side], "s") for side in sides]
    rows += [median_row("controller", side, case.name, "cpu_seconds", cpu_s[side], "s") for side in sides]
    for metric, taken in (("overhead", seconds), ("cpu_overhead", cpu_s)):
        overheads = [100 * (cut / whole - 1) for cut, whole in zip(taken["chunks"], taken["whole"], strict=True)]
        rows.append(median_row("controller", "chunks", case.name, metric, overheads, "%"))
    return rows


def _cpu_s(server: Server) -> float:
    """CPU time of the engine's processes until now."""
    first = psutil.Process(server.process.pid)
    times = [one.cpu_times() for one in (first, *first.children(recursive=True))]
    return sum(one.user + one.system for one in times)


async def _roll_out(url: str, wanted: Sequence[Prompt], chunk_tokens: int) -> tuple[Tokens, float]:
    # Events come as often on both sides.
    config = RolloutConfig(chunk_tokens=chunk_tokens, stream_tokens=512)
    async with RolloutController([url], config=config) as rollout:
        samples, took_s = await roll_out(rollout, wanted)
        chunks = -(-wanted[0].sampling["max_new_tokens"] // chunk_tokens)
        if rollout.counts.chunks != chunks * len(samples):
            raise ValueError(f"{rollout.counts.chunks} chunks ran, wanted {chunks} of each of {len(samples)} samples")
    return tokens_of(samples), took_s
