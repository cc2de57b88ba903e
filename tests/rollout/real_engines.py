"""Real engines in tests: what one answers without chunks, and how it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp

from sglang_seer.demo.servers import Server
from sglang_seer.rollout import Prompt, RolloutConfig, RolloutController, Sample, buffer
from sglang_seer.schedule.placement import EngineLoad, Placement, PlacementRules, place

REQUEST_TIMEOUT_S = 120.0


def folder_of_example() -> Path:
    return Path(__file__).resolve().parents[2] / "examples" / "tiny_reasoner"


class RealEngine:
    """One server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.plan.url

    def signal(self, number: int) -> None:
        """To every process of the server."""
        os.killpg(self.server.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.server.process.wait()

    async def get(self, path: str) -> Any:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            return await response.json()

    async def seer(self) -> dict[str, Any]:
        """Seer's live block."""
        status: dict[str, Any] = (await self.get("/server_info"))["internal_states"][0]["sglang_seer"]
        return status


async def unchunked(engine: RealEngine, prompts: Sequence[Prompt]) -> dict[tuple[str, int], dict[str, Any]]:
    """SGLang's own answers to whole requests, by group and sample."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def one(prompt: Prompt, sample: int) -> dict[str, Any]:
            sampling = {**prompt.sampling, "sampling_seed": prompt.seed_of(sample)}
            body = {"input_ids": list(prompt.input_ids), "sampling_params": sampling, "return_logprob": True}
            async with session.post(engine.url + "/generate", json=body) as response:
                assert response.status == 200, await response.text()
                answer: dict[str, Any] = await response.json()
                return answer

        keys = [(prompt, sample) for prompt in prompts for sample in range(prompt.samples)]
        answers = await asyncio.gather(*(one(prompt, sample) for prompt, sample in keys))
    return {(prompt.group, sample): answer for (prompt, sample), answer in zip(keys, answers, strict=True)}


def _elsewhere(
    need_tokens: int, cached_tokens: Mapping[str, int], engines: Sequence[EngineLoad], rules: PlacementRules
) -> Placement | None:
    """As `place`, without the engine that has most of the prefix while another one has room."""
    home = max(cached_tokens, key=lambda name: cached_tokens[name], default=None)
    others = [engine for engine in engines if engine.name != home and engine.has_room(need_tokens)]
    return place(need_tokens, cached_tokens, others or engines, rules)


@contextmanager
def restless() -> Iterator[None]:
    """Chunks move whenever they can; by placement's own rules whether one moves is up to the engines' pace."""
    with mock.patch.object(buffer, "place", _elsewhere):
        yield


async def chunked(
    urls: Sequence[str], prompts: Sequence[Prompt], tokenizer: Any = None, **options: Any
) -> tuple[list[Sample], RolloutController]:
    """The same through the controller."""
    config = RolloutConfig(**{"logprobs": True, "poll_s": 0.2, **options})
    async with RolloutController(urls, config=config, tokenizer=tokenizer) as rollout:
        samples = [sample async for sample in rollout.samples(prompts)]
        assert len(rollout.buffer) == 0
        return samples, rollout


def assert_equal(samples: Sequence[Sample], wanted: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Each once, with equal tokens, log-probabilities, text and end."""
    assert sorted((sample.group, sample.sample) for sample in samples) == sorted(wanted)
    for sample in samples:
        answer = wanted[sample.group, sample.sample]
        meta = answer["meta_info"]
        assert sample.output_ids == answer["output_ids"]
        assert sample.logprobs is not None
        whole = [logprob for logprob, _, _ in meta["output_token_logprobs"]]
        assert len(sample.logprobs) == len(whole)
        assert max(abs(a - b) for a, b in zip(sample.logprobs, whole, strict=True)) < 1e-5
        assert sample.finish_reason == meta["finish_reason"]["type"]
        assert sample.matched == meta["finish_reason"].get("matched")
        if sample.text is not None:
            assert sample.text == answer["text"]
