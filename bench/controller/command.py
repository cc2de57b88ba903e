"""`python -m sglang_seer bench controller`: what the controller costs, one process of it against stand-in engines.

The engines are in another process and compute nothing; they hold back each chunk so that a wanted number of chunks ends
each second. Measured is the controller's own CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.rows import ROOT, Row, header, median_row, table, write_json
from sglang_seer.rollout import Prompt, RolloutConfig, RolloutController
from sglang_seer.rollout.timing import run

BENCH = "controller"
PROMPT_TOKENS = 256
SAMPLES = 16
CHUNKS = 4


class Measured(NamedTuple):
    """cpu_share: of one core. memory_mb: largest resident set of the process until then."""

    chunks_a_second: float
    cpu_share: float
    in_flight: int
    memory_mb: float


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark; 0 when done, 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench controller", description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write header and rows")
    parser.add_argument("--engines", type=int, default=64, help="stand-in engines (default 64)")
    parser.add_argument("--in-flight", type=int, default=10_000, help="requests in flight (default 10,000)")
    parser.add_argument("--rate", type=int, default=2_000, help="chunks that end a second (default 2,000)")
    parser.add_argument("--chunk-tokens", type=int, default=512, help="tokens of a chunk (default 512)")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured, after a warm-up (default 20)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="8 engines, 400 in flight, 200 a second, 3 s, once")
    options = parser.parse_args(argv)
    if options.quick:
        options.engines, options.in_flight, options.rate = 8, 400, 200
        options.seconds, options.repetitions = 3.0, 1
    for name in ("engines", "in_flight", "rate", "chunk_tokens", "repetitions"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: wanted at least 1, saw {getattr(options, name)}")
    case = f"{options.engines} engines, {options.in_flight:,} in flight, {options.rate:,} chunks/s wanted"
    runs = []
    for number in range(options.repetitions):
        runs.append(run(_measure(options)))
        print(f"controller: run {number + 1}: {runs[-1]}", file=sys.stderr, flush=True)
    rows = [
        median_row(BENCH, "seer", case, "chunks_a_second", [one.chunks_a_second for one in runs], "1/s"),
        median_row(BENCH, "seer", case, "cpu_share", [one.cpu_share for one in runs], "cores"),
        median_row(
            BENCH, "seer", case, "cpu_a_chunk", [1e6 * one.cpu_share / one.chunks_a_second for one in runs], "us"
        ),
        median_row(BENCH, "seer", case, "in_flight", [one.in_flight for one in runs], "requests"),
        median_row(BENCH, "seer", case, "peak_memory", [one.memory_mb for one in runs], "MB"),
    ]
    print(table(case, ("of one controller process", "median", "least", "most"), [_line(row) for row in rows]))
    if options.json:
        head = header("python -m sglang_seer bench controller", ("sglang-seer", "aiohttp", "msgspec", "uvloop"))
        write_json(options.json, head, rows, chunk_tokens=options.chunk_tokens, seconds=options.seconds)
    return 0


def _line(row: Row) -> list[str]:
    assert row.spread is not None
    return [f"{row.metric}, {row.unit}", *(f"{one:,.2f}" for one in (row.value, row.spread["min"], row.spread["max"]))]


@contextmanager
def _engines(options: argparse.Namespace, seconds_per_token: float) -> Iterator[list[str]]:
    tokens = CHUNKS * options.chunk_tokens
    room = 2 * options.in_flight * (PROMPT_TOKENS + tokens) // options.engines
    numbers = (options.engines, seconds_per_token, tokens, room)
    with subprocess.Popen(
        [sys.executable, "-m", "bench.controller.engines", *map(str, numbers)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(30)


async def _measure(options: argparse.Namespace) -> Measured:
    # As many end a second as wanted, when each takes this long.
    chunk_s = options.in_flight / options.rate
    config = RolloutConfig(
        chunk_tokens=options.chunk_tokens,
        max_running=math.ceil(options.in_flight / options.engines),
        buffer_requests=options.in_flight + options.in_flight // 4,
        silent_s=60.0,
        connect_s=60.0,
    )
    with _engines(options, chunk_s / options.chunk_tokens) as urls:
        async with RolloutController(urls, config=config) as rollout:
            consumer = asyncio.create_task(_consume(rollout, options.chunk_tokens * CHUNKS))
            while rollout.buffer.running < 0.95 * options.in_flight:
                await asyncio.sleep(0.1)
            # Chunks that began together end together: wait until they are spread.
            await asyncio.sleep(2 * chunk_s)
            began_s, cpu_s, chunks = time.monotonic(), time.process_time(), rollout.counts.chunks
            seen = []
            while (took_s := time.monotonic() - began_s) < options.seconds:
                await asyncio.sleep(0.25)
                seen.append(rollout.buffer.running)
            measured = Measured(
                (rollout.counts.chunks - chunks) / took_s,
                (time.process_time() - cpu_s) / took_s,
                sorted(seen)[len(seen) // 2],
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
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
