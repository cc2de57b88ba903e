"""Engines that share a KV store, and rollouts on them."""

from __future__ import annotations

import asyncio
import itertools
import json
from array import array
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
from sglang.srt.mem_cache.utils import get_hash_str, storage_namespace_seed

from sglang_seer.demo.servers import ServerPlan, pick_port, serve
from sglang_seer.rollout import Chunk, Prompt, RolloutConfig, RolloutController, Sample
from sglang_seer.rollout.buffer import Request
from sglang_seer.rollout.runner import ChunkRunner
from tests.rollout.conftest import COMMON_FLAGS, START_TIMEOUT_S
from tests.rollout.fleet_of_stubs import until
from tests.rollout.real_engines import REQUEST_TIMEOUT_S, RealEngine, restless

Answers = dict[tuple[str, int], dict[str, Any]]
PAGE = 16
# Three chunks a sample.
CHUNK_TOKENS = 72
PREFETCH_S = 20
# More than enough, also on a machine that does much else.
STORE_S = 1.5
_versions = itertools.count()


@contextmanager
def sharing_engines(
    folder: Path, backend: str, options: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[list[RealEngine]]:
    """Two, with Seer's policy, that share the store which `backend` and `options` name."""
    # By itself SGLang gives up on a store that takes a second.
    extra = json.dumps({"prefetch_threshold": PAGE, "prefetch_timeout_base": PREFETCH_S, **options})
    flags = (
        *COMMON_FLAGS,
        *("--scheduler-policy", "seer", "--page-size", str(PAGE), "--enable-hierarchical-cache"),
        *("--hicache-storage-backend", backend, "--hicache-storage-backend-extra-config", extra),
        *("--hicache-write-policy", "write_through"),
    )
    variables = {"SGLANG_PLATFORM": "seer_cpu", "HF_HUB_OFFLINE": "1", **environment}
    with ExitStack() as stack:
        plans = [
            ServerPlan(label=f"{backend}-{name}", port=pick_port(None), flags=flags, environment=variables)
            for name in ("a", "b")
        ]
        engines = [RealEngine(stack.enter_context(serve(plan, folder))) for plan in plans]
        for engine in engines:
            engine.server.wait_until_ready(START_TIMEOUT_S)
        yield engines


def prompts(problems: Sequence[list[int]], *, samples: int = 4) -> list[Prompt]:
    sampling = {"temperature": 1.0, "max_new_tokens": 200, "ignore_eos": True}
    return [
        Prompt(group=f"s{number}", input_ids=ids, samples=samples, sampling=sampling, seed=6)
        for number, ids in enumerate(problems)
    ]


def fresh_version() -> str:
    """A version that no KV is kept under."""
    return f"test-{next(_versions)}"


async def shared(
    engines: Sequence[RealEngine],
    wanted: Sequence[Prompt],
    *,
    version: str,
    disturb: Callable[[RolloutController], Awaitable[None]] | None = None,
) -> tuple[list[Sample], RolloutController]:
    """A rollout on both, with KV shared under the weights of that version. Every sample moves with each chunk."""
    # Engines that wait for a store stand still: no verdict on them.
    patience = RolloutConfig(poll_s=0.2, silent_s=60.0, health_s=60.0)
    config = replace(patience, chunk_tokens=CHUNK_TOKENS, logprobs=True, shared_kv=True, store_s=STORE_S)
    async with RolloutController([engine.url for engine in engines], config=config) as rollout:
        rollout.new_weights(version)
        task = asyncio.create_task(disturb(rollout)) if disturb is not None else None
        with restless():
            samples = [sample async for sample in rollout.samples(wanted)]
        if task is not None:
            await task
        assert not rollout.counts.broken, rollout.counts.broken
        return samples, rollout


@contextmanager
def waiting_for_pages(stored: Callable[[Sequence[str]], bool]) -> Iterator[None]:
    """Chunks that move start when the store has their whole pages, however long that takes the engine.

    stored: whether the store has all pages of these hashes.
    """

    async def until_stored(runner: ChunkRunner, request: Request) -> None:
        if request.chunks and request.chunks[-1].engine != request.engine:
            tokens = array("q", [*request.input_ids, *request.output_ids])
            # Of the last token no KV was computed.
            whole = tokens[: (len(tokens) - 1) // PAGE * PAGE]
            seed = storage_namespace_seed(f"seer-weights-{runner.weight_version}", None)
            keys = get_hash_str(whole, seed, page_size=PAGE)
            await until(lambda: stored(keys), every_s=0.1)

    with mock.patch.object(ChunkRunner, "_until_stored", until_stored):
        yield


def moved(samples: Sequence[Sample]) -> list[Chunk]:
    """Chunks that went on on another engine than the one before them."""
    return [after for sample in samples for before, after in pairwise(sample.chunks) if before.engine != after.engine]


def computed_again(chunk: Chunk) -> int:
    """Tokens of its input that were in no cache."""
    return chunk.input_tokens - chunk.cached_tokens


async def forget(engines: Sequence[RealEngine]) -> None:
    """Empties the engines' own caches, once nothing is on its way to the store any more."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)) as session:
        for engine in engines:
            async with session.post(engine.url + "/flush_cache", params={"timeout": "60"}) as response:
                assert response.status == 200, await response.text()
