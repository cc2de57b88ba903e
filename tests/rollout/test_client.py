"""The client against a stub; against the real engine it runs in tests/integrations/test_demo.py."""

import asyncio
import time

import pytest

from sglang_seer.rollout import client as client_module
from sglang_seer.rollout.client import EngineClient, EngineError
from sglang_seer.rollout.records import GenerateRequest
from tests.rollout.stub_engine import StubEngine, serving


def request(sample: int = 0) -> GenerateRequest:
    return GenerateRequest(group="g", sample=sample, input_ids=[5, 6, 7], limit=9, seed=11, temperature=0.5)


async def test_a_request_carries_its_seed_and_its_hints() -> None:
    engine = StubEngine()
    async with serving(engine) as url, EngineClient(url) as client:
        await client.generate(request(sample=4))
    assert engine.bodies == [
        {
            "input_ids": [5, 6, 7],
            "sampling_params": {
                "temperature": 0.5,
                "max_new_tokens": 9,
                "sampling_seed": 11,
                "custom_params": {"seer": {"group": "g", "sample": 4, "prompt_len": 3, "limit": 9}},
            },
        }
    ]


async def test_an_answer_becomes_a_generation() -> None:
    async with serving(StubEngine(delay_s=0.05)) as url, EngineClient(url + "/") as client:
        before_s = time.time()
        generation = await client.generate(request(sample=1))
        after_s = time.time()
    assert (generation.group, generation.sample, generation.output_ids) == ("g", 1, [1, 3])
    assert (generation.finish_reason, generation.prompt_tokens) == ("stop", 3)
    assert (generation.retractions, generation.verify_steps, generation.first_s) == (2, 0, 1.5)
    # By another clock than the stub's, which waits for 0.1 s.
    assert before_s <= generation.submitted_s <= generation.finished_s - 0.09
    assert generation.finished_s <= after_s


async def test_counts_an_engine_does_not_report_stay_unknown() -> None:
    engine = StubEngine()
    engine.answer = {"output_ids": [], "meta_info": {"finish_reason": {"type": "length"}, "prompt_tokens": 3}}
    async with serving(engine) as url, EngineClient(url) as client:
        generation = await client.generate(request())
    assert (generation.retractions, generation.first_s, generation.verify_steps) == (None, None, 0)


@pytest.mark.parametrize("answer", [{}, {"output_ids": []}, {"output_ids": [], "meta_info": {"finish_reason": None}}])
async def test_an_answer_without_its_parts_is_an_error(answer: dict[str, object]) -> None:
    engine = StubEngine()
    engine.answer = answer
    async with serving(engine) as url, EngineClient(url) as client:
        with pytest.raises(EngineError, match="wanted output_ids"):
            await client.generate(request())


async def test_a_refused_request_says_why() -> None:
    async with serving(StubEngine(failing=(0,))) as url, EngineClient(url) as client:
        with pytest.raises(EngineError, match="/generate: status 400: the stub was told to fail"):
            await client.generate(request())


async def test_a_dropped_connection_is_an_error() -> None:
    async with serving(StubEngine(dropping=(0,))) as url, EngineClient(url) as client:
        with pytest.raises(EngineError, match="/generate: ServerDisconnectedError"):
            await client.generate(request())


async def test_no_engine_is_an_error(free_port: int) -> None:
    async with EngineClient(f"http://127.0.0.1:{free_port}") as client:
        with pytest.raises(EngineError, match=f"127.0.0.1:{free_port}.*Connect"):
            await client.load()


async def test_loads_are_summed_over_ranks() -> None:
    async with serving(StubEngine()) as url, EngineClient(url) as client:
        load = await client.load()
        assert (load.running, load.waiting, load.used_tokens, load.capacity_tokens) == (0, 2, 20, 80)
        assert (await client.server_info())["version"] == "stub"


async def test_the_client_wants_to_be_entered() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await EngineClient("http://127.0.0.1:1").load()


@pytest.mark.parametrize(("kept_s", "again"), [(0.1, False), (600.0, True)])
async def test_a_connection_that_was_idle_for_long_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch, kept_s: float, again: bool
) -> None:
    """Its engine may be about to close it."""
    monkeypatch.setattr(client_module, "KEPT_ALIVE_S", kept_s)
    engine = StubEngine()
    async with serving(engine) as url, EngineClient(url) as client:
        await client.load()
        await asyncio.sleep(0.3)
        await client.load()
    assert (engine.peers[0] == engine.peers[1]) == again
