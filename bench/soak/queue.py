"""Very many requests at once on one engine: all return, its scheduler's passes stay short, its memory comes back."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.controller.cpu_engines import MODEL, prompts
from bench.reality.engines import START_TIMEOUT_S, flush
from bench.rows import ROOT
from bench.soak.engines import faults_in, rss_mib, status_of
from sglang_seer.demo.plan import shared_environment, shared_flags
from sglang_seer.demo.servers import Server, ServerPlan, pick_port, serve
from sglang_seer.rollout.client import EngineClient

# Runs in the engine's process before anything else.
SITECUSTOMIZE = "from bench.soak import passes; passes.install()\n"
WAVES = 3
GROUP = 16
RUNNING = 64
LIMIT = 8
# Requests of one call: connections are not what is tested.
TOGETHER = 100
TIMEOUT_S = 900.0
# Of one pass over the whole queue, of a second that decoding could have; the mean is what counts for throughput.
MOST_PASS_S = 1.0
MOST_MEAN_PASS_S = 0.02
# What a wave may leave behind when one as large was there before.
MOST_LEFT_MIB = 48.0


@dataclass(frozen=True, slots=True)
class Queued:
    """Passes: of the policy over a waiting queue, in the engine. left_mib: RSS after the last wave, less that after the
    one before. log_faults: what the engine's log tells of."""

    requests: int
    returned: int
    tokens: int
    most_waiting: int
    passes: int
    mean_pass_s: float
    longest_pass_s: float
    left_mib: float
    used_tokens_after: int
    log_faults: list[str]

    @property
    def faults(self) -> list[str]:
        """Everything that must not be."""
        found = list(self.log_faults)
        if self.returned != self.requests:
            found.append(f"{self.returned:,} requests returned whole, wanted {self.requests:,}")
        if self.mean_pass_s > MOST_MEAN_PASS_S or self.longest_pass_s > MOST_PASS_S:
            found.append(
                f"passes took {self.mean_pass_s:.4f} s on average and {self.longest_pass_s:.3f} s at most, wanted "
                f"{MOST_MEAN_PASS_S} and {MOST_PASS_S}"
            )
        if self.left_mib > MOST_LEFT_MIB:
            found.append(f"the last wave left {self.left_mib:.0f} MiB, wanted at most {MOST_LEFT_MIB:.0f}")
        if self.used_tokens_after:
            found.append(f"{self.used_tokens_after} KV slots are in use after the last wave and a flush, wanted none")
        if self.most_waiting < self.requests // WAVES // 2:
            wave = self.requests // WAVES
            found.append(f"at most {self.most_waiting:,} requests waited, wanted half of {wave:,}: no load")
        return found


def queue(requests: int) -> Queued:
    """Waves of so many requests. Raises ServerError where the engine does not start or dies."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
        plan = ServerPlan(
            label="engine-queue",
            port=pick_port(None),
            flags=(
                *shared_flags(MODEL, kv_tokens=RUNNING * 128, max_running=RUNNING),
                *("--scheduler-policy", "seer"),
            ),
            environment={**shared_environment(), "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        )
        with serve(plan, folder) as server:
            server.wait_until_ready(START_TIMEOUT_S)
            return asyncio.run(_waves(server, requests))


async def _waves(server: Server, requests: int) -> Queued:
    rss, returned, tokens = [], 0, 0
    for wave in range(WAVES):
        began_s = time.monotonic()
        bodies = _bodies(requests, wave)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
            answers = await asyncio.gather(*(_post(session, server, body) for body in bodies))
        lengths = [len(one["output_ids"]) for answer in answers for one in answer]
        returned += sum(length == LIMIT for length in lengths)
        tokens += sum(lengths)
        flush(server)
        rss.append(rss_mib(server))
        took_s = time.monotonic() - began_s
        print(f"soak: wave {wave + 1}: {len(lengths):,} requests in {took_s:.0f} s", file=sys.stderr, flush=True)
    passes = (await status_of(server.plan.url))["passes"]
    async with EngineClient(server.plan.url) as client:
        used = (await client.load()).used_tokens
    mean_s = passes["seconds"] / max(passes["passes"], 1)
    return Queued(
        WAVES * requests,
        returned,
        tokens,
        passes["most_waiting"],
        passes["passes"],
        mean_s,
        passes["longest_s"],
        rss[-1] - rss[-2],
        used,
        faults_in([server.log]),
    )


def _bodies(requests: int, wave: int) -> list[dict[str, Any]]:
    """Of groups of samples, some requests a call."""
    groups = prompts(-(-requests // GROUP), samples=GROUP, limit=LIMIT, seed=wave)
    one = [
        (
            list(prompt.input_ids),
            {
                **prompt.sampling,
                "sampling_seed": prompt.seed_of(sample),
                "custom_params": {"seer": {"group": f"{wave}/{prompt.group}", "sample": sample}},
            },
        )
        for prompt in groups
        for sample in range(GROUP)
    ][:requests]
    return [
        {
            "input_ids": [ids for ids, _ in one[begin : begin + TOGETHER]],
            "sampling_params": [sampling for _, sampling in one[begin : begin + TOGETHER]],
        }
        for begin in range(0, len(one), TOGETHER)
    ]


async def _post(session: aiohttp.ClientSession, server: Server, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with session.post(f"{server.plan.url}/generate", json=body) as answer:
        if answer.status != 200:
            raise server.error(f"/generate: status {answer.status}: {(await answer.text())[:200]}")
        found: list[dict[str, Any]] = await answer.json()
        return found
