"""Chunked samples equal unchunked ones, on real engines: tokens, log-probabilities, text and end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sglang_seer.rollout import Prompt, RolloutConfig, RolloutController
from tests.rollout.fleet_of_stubs import Arrivals, until
from tests.rollout.real_engines import RealEngine, assert_equal, chunked, restless, unchunked

Engines = dict[str, RealEngine]
SEEDS = (11, 12, 13, 14)
COUNTED = ("finished", "chunks")


def urls(engines: Engines) -> list[str]:
    return [engine.url for engine in engines.values()]


def prompts(problems: list[list[int]], *, samples: int = 4, seed: int = 1, **sampling: Any) -> list[Prompt]:
    sampling = {"temperature": 1.0, "max_new_tokens": 300, **sampling}
    return [
        Prompt(group=f"g{number}", input_ids=ids, samples=samples, sampling=sampling, seed=seed)
        for number, ids in enumerate(problems)
    ]


@pytest.mark.parametrize(
    ("chunk_tokens", "sampling"),
    [(48, {}), (17, {"top_k": 20, "top_p": 0.9, "temperature": 0.8})],
    ids=["plain", "filtered"],
)
async def test_chunks_change_nothing(
    engines: Engines, problems: list[list[int]], tokenizer: Any, chunk_tokens: int, sampling: dict[str, Any]
) -> None:
    wanted = prompts(problems[:4], **sampling)
    with restless():
        samples, rollout = await chunked(urls(engines), wanted, tokenizer, chunk_tokens=chunk_tokens)
    assert_equal(samples, await unchunked(engines["stock"], wanted))
    # It was cut, on both engines, and samples went from one to the other.
    assert rollout.counts.chunks > 2 * len(samples)
    assert {chunk.engine for sample in samples for chunk in sample.chunks} == set(urls(engines))
    assert rollout.counts.moved > 0
    assert rollout.counts.broken == {}
    assert all(sample.weight_versions == ["default"] for sample in samples)
    seer = [chunk for sample in samples for chunk in sample.chunks if chunk.engine == engines["seer"].url]
    assert sum(chunk.verify_steps for chunk in seer) > 0
    assert sum(chunk.cached_tokens for chunk in seer) > 0


async def test_another_seed_is_another_sample(engines: Engines, problems: list[list[int]]) -> None:
    """Negative control of the comparison above."""
    samples, _ = await chunked(urls(engines), prompts(problems[:1], seed=2), chunk_tokens=48)
    with pytest.raises(AssertionError):
        assert_equal(samples, await unchunked(engines["stock"], prompts(problems[:1], seed=1)))


async def test_an_engine_takes_chunks_for_one_response(engines: Engines, problems: list[list[int]]) -> None:
    """It keeps each text once, and learns a length once: when the last chunk has ended."""
    grown = {}
    for chunk_tokens in (32, 4096):
        wanted = [
            Prompt(
                group=f"{one.group}-{chunk_tokens}",
                input_ids=one.input_ids,
                samples=4,
                sampling=one.sampling,
                seeds=SEEDS,
            )
            for one in prompts(problems[:2])
        ]
        before = await engines["seer"].seer()
        samples, rollout = await chunked([engines["seer"].url], wanted, chunk_tokens=chunk_tokens)
        after = await engines["seer"].seer()
        grown[chunk_tokens] = after["drafts"]["tokens"] - before["drafts"]["tokens"]
        counted = {name: after["counters"].get(name, 0) - before["counters"].get(name, 0) for name in COUNTED}
        assert counted == {"finished": len(samples), "chunks": rollout.counts.chunks - len(samples)}
        assert (rollout.counts.chunks > 2 * len(samples)) == (chunk_tokens == 32)
    # Kept once a chunk, the texts would be several times as long.
    assert 0 < grown[32] < 1.1 * grown[4096]


@pytest.mark.parametrize("chunk_tokens", [3, 10])
@pytest.mark.parametrize("no_stop_trim", [False, True])
async def test_stop_strings_over_seams(
    engines: Engines, problems: list[list[int]], tokenizer: Any, chunk_tokens: int, no_stop_trim: bool
) -> None:
    stops = ["Answer: ", "ones 1", "so 2", ".\nNow #"]
    wanted = prompts(problems[:3], stop=stops, no_stop_trim=no_stop_trim, max_new_tokens=80)
    samples, _ = await chunked(urls(engines), wanted, tokenizer, chunk_tokens=chunk_tokens)
    assert_equal(samples, await unchunked(engines["stock"], wanted))
    stopped = [sample for sample in samples if sample.matched in stops]
    assert len(stopped) > len(samples) / 2
    # Some of them were found over a seam: no engine saw the whole string.
    assert any(sample.chunks[-1].tokens < 3 for sample in stopped)


async def test_characters_of_several_tokens(engines: Engines, problems: list[list[int]], tokenizer: Any) -> None:
    """Bytes of a character fall on both sides of a seam, and many make none."""
    heart = tokenizer.encode("\u2764é", add_special_tokens=False)
    assert len(heart) > 2
    bias = {str(token): 60.0 for token in heart}
    wanted = prompts(problems[:2], temperature=4.0, logit_bias=bias, ignore_eos=True, max_new_tokens=40)
    samples, _ = await chunked(urls(engines), wanted, tokenizer, chunk_tokens=7)
    assert_equal(samples, await unchunked(engines["stock"], wanted))
    assert any("é" in (sample.text or "") for sample in samples)
    assert any("\ufffd" in (sample.text or "") for sample in samples)


async def test_the_least_number_of_tokens(engines: Engines, problems: list[list[int]], tokenizer: Any) -> None:
    wanted = prompts(problems[:2], min_new_tokens=150)
    samples, _ = await chunked([engines["stock"].url], wanted, tokenizer, chunk_tokens=32)
    assert_equal(samples, await unchunked(engines["stock"], wanted))
    free, _ = await chunked([engines["stock"].url], prompts(problems[:2]), tokenizer, chunk_tokens=32)
    assert min(len(sample.output_ids) for sample in samples) >= 150
    assert min(len(sample.output_ids) for sample in free) < 150


async def test_the_limit_is_exact(engines: Engines, problems: list[list[int]]) -> None:
    wanted = prompts(problems[:2], ignore_eos=True, max_new_tokens=96)
    samples, rollout = await chunked(urls(engines), wanted, chunk_tokens=32)
    assert_equal(samples, await unchunked(engines["stock"], wanted))
    assert {len(sample.output_ids) for sample in samples} == {96}
    assert rollout.counts.chunks == 3 * len(samples)


async def test_a_response_that_ends_with_its_chunk(engines: Engines, problems: list[list[int]]) -> None:
    wanted = prompts(problems[:1], samples=2)
    whole = await unchunked(engines["stock"], wanted)
    for key, answer in whole.items():
        length = len(answer["output_ids"])
        for chunk_tokens in (length, length - 1):
            samples, _ = await chunked(urls(engines), wanted, chunk_tokens=chunk_tokens)
            assert_equal(samples, whole)
            (sample,) = (one for one in samples if (one.group, one.sample) == key)
            assert len(sample.chunks) == (1 if chunk_tokens == length else 2)


@pytest.mark.parametrize(
    ("sampling", "reason"),
    [
        ({"frequency_penalty": 0.7}, "frequency_penalty: depends on the whole output"),
        ({"regex": "[0-9 +=.]{20,60}"}, "regex: depends on the whole output"),
        ({"stop": "Answer"}, "stop: strings over a seam need a tokenizer"),
    ],
)
async def test_what_cannot_be_cut_runs_whole(
    engines: Engines, problems: list[list[int]], sampling: dict[str, Any], reason: str
) -> None:
    wanted = prompts(problems[:2], samples=2, max_new_tokens=120, **sampling)
    samples, rollout = await chunked([engines["stock"].url], wanted, chunk_tokens=16)
    assert_equal(samples, await unchunked(engines["stock"], wanted))
    assert rollout.counts.chunks == len(samples)
    assert rollout.counts.whole == {reason: len(samples)}
    assert all(sample.whole == [reason] for sample in samples)


async def test_engines_are_told_of_what_is_cancelled(engines: Engines, problems: list[list[int]]) -> None:
    """A chunk of a thousand tokens ends at once, not at its limit."""
    # Few enough that all run at once.
    wanted = prompts(problems[:2], ignore_eos=True, max_new_tokens=1000)
    config = RolloutConfig(chunk_tokens=4096, stream_tokens=8, poll_s=0.2)
    async with RolloutController(urls(engines), config=config) as rollout:

        async def cancel() -> None:
            arrivals = Arrivals(rollout)
            await until(lambda: sum(map(arrivals.on, urls(engines))) == 8)
            assert rollout.cancel("g0") == 4
            assert rollout.cancel("g1", 2) == 1
            await until(lambda: rollout.buffer.running == 3)
            assert rollout.cancel("g1") == 3

        task = asyncio.create_task(cancel())
        samples = [sample async for sample in rollout.samples(wanted)]
        await task
        assert [sample.finish_reason for sample in samples] == ["cancelled"] * 8
        assert all(sample.output_ids for sample in samples)
        for engine in engines.values():
            await _idle(engine)


async def _idle(engine: RealEngine) -> None:
    while (load := (await engine.get("/v1/loads?include=core"))["loads"][0])["num_running_reqs"]:
        assert load["num_used_tokens"] < 6144
        await asyncio.sleep(0.05)
