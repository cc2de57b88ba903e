"""Engines that fail in every way they know: each sample comes once, with the tokens of an undisturbed run.

Engines are stand-ins here; a real one is killed in test_real_engines.py.
"""

import asyncio

import pytest

from bench.controller.stub import Behaviour, Stub
from sglang_seer.rollout.client import EngineError, RolloutError
from sglang_seer.rollout.controller import RolloutController
from sglang_seer.rollout.samples import Sample
from tests.rollout.fleet_of_stubs import (
    LIMIT,
    Arrivals,
    assert_settled,
    assert_undisturbed,
    config,
    disturbed,
    outlasted,
    prompts,
    stubs,
    until,
)

SLOW = 0.002


@pytest.mark.parametrize("stream_tokens", [4, 32])
async def test_a_killed_engine_costs_at_most_what_it_had_not_sent(stream_tokens: int) -> None:
    """At most a chunk of each request is generated again; no more than one event of it where events are frequent."""
    generated: dict[int, int] = {}

    async def kill(controller: RolloutController, engines: list[Stub]) -> None:
        # In mid-chunk. With one event a chunk nothing of it has come.
        arrivals = Arrivals(controller)
        await until(lambda: bool(engines[0].running) if stream_tokens == 32 else arrivals.on(engines[0].url) > 0)
        running = {g.seed: g.start + len(g.tokens) for g in engines[0].running}
        await engines[0].kill()
        generated.update(running)

    async with stubs(3, seconds_per_token=SLOW) as engines:
        samples, controller = await disturbed(engines, prompts(10), kill, stream_tokens=stream_tokens)
    assert_undisturbed(samples, prompts(10))
    if stream_tokens == 32:
        # Negative control: one event a chunk, and the whole chunk is generated again.
        lost = [chunk for sample in samples for chunk in sample.chunks if chunk.end.startswith("connection")]
        assert lost and all(chunk.tokens == 0 for chunk in lost)
        return
    again = [
        generated[sample.seed] - chunk.input_tokens - chunk.tokens
        for sample in samples
        for chunk in sample.chunks
        if chunk.end.startswith("connection") and sample.seed in generated
    ]
    assert again and min(again) >= 0 and max(again) <= stream_tokens
    assert controller.counts.broken["connection"] > 0
    assert controller.counts.engines_lost == 1
    broken = [chunk for sample in samples for chunk in sample.chunks if chunk.end.startswith("connection")]
    assert {chunk.engine for chunk in broken} == {engines[0].url}
    # Streaming kept what the dead engine had sent.
    assert sum(chunk.tokens for chunk in broken) > 0


async def test_a_killed_engine_that_comes_back_is_used_again() -> None:
    async def restart(controller: RolloutController, engines: list[Stub]) -> None:
        await until(lambda: bool(engines[0].running))
        await engines[0].kill()
        await until(lambda: engines[0].url not in controller.buffer.up)
        before = engines[0].seen.chunks
        await engines[0].start()
        await until(lambda: engines[0].seen.chunks > before)

    async with stubs(2, seconds_per_token=SLOW) as engines:
        samples, taken, _ = await outlasted(engines, restart)
    assert_undisturbed(samples, taken)


async def test_the_only_engine_may_die_and_come_back() -> None:
    async def restart(controller: RolloutController, engines: list[Stub]) -> None:
        await until(lambda: bool(engines[0].running))
        await engines[0].kill()
        await until(lambda: not controller.buffer.up)
        await asyncio.sleep(0.1)
        await engines[0].start()

    async with stubs(1, seconds_per_token=SLOW) as engines:
        samples, _ = await disturbed(engines, prompts(5), restart, no_engine_s=20.0)
    assert_undisturbed(samples, prompts(5))


@pytest.mark.parametrize("fault", ["hang", "error", "garbage", "backwards", "short", "abort"])
@pytest.mark.parametrize("incremental", [False, True])
async def test_an_engine_that_answers_badly(fault: str, incremental: bool) -> None:
    async def break_it(controller: RolloutController, engines: list[Stub]) -> None:
        await until(lambda: bool(engines[0].running))
        engines[0].behaviour.fault = fault
        await until(lambda: controller.counts.engines_lost > 0)

    async with stubs(3, seconds_per_token=SLOW, incremental=incremental) as engines:
        samples, taken, controller = await outlasted(engines, break_it, health_s=0.3)
    assert_undisturbed(samples, taken)
    assert sum(controller.counts.broken.values()) > 0


async def test_a_fault_that_passes() -> None:
    """The engine rests, is asked again, and works: nothing trips for good."""

    async def break_and_mend(controller: RolloutController, engines: list[Stub]) -> None:
        await until(lambda: bool(engines[0].running))
        engines[0].behaviour.fault = "error"
        await until(lambda: controller.counts.engines_lost > 0)
        engines[0].behaviour.fault = None
        before = engines[0].seen.chunks
        await until(lambda: engines[0].seen.chunks > before)

    async with stubs(2, seconds_per_token=SLOW) as engines:
        samples, taken, _ = await outlasted(engines, break_and_mend)
    assert_undisturbed(samples, taken)


async def test_silence_of_a_healthy_engine_is_no_fault() -> None:
    """One event a chunk, and that comes later than `silent_s`: the engine says that it is healthy."""
    async with stubs(2, seconds_per_token=0.02) as engines:
        samples, controller = await disturbed(engines, prompts(2, limit=32), None, stream_tokens=32, silent_s=0.1)
    assert_undisturbed(samples, prompts(2, limit=32))
    assert controller.counts.engines_lost == 0
    assert controller.counts.broken == {}


async def test_a_slow_engine_gets_less() -> None:
    async with stubs(3, seconds_per_token=SLOW) as engines:
        engines[0].behaviour.seconds_per_token = 20 * SLOW
        # One event a chunk, so that what the machine needs for events does not make engines alike.
        samples, controller = await disturbed(engines, prompts(30), max_running=8, stream_tokens=32)
    assert_undisturbed(samples, prompts(30))
    chunks = [engine.seen.chunks for engine in engines]
    assert chunks[0] < min(chunks[1:]) / 3
    # Slow is not broken.
    assert controller.counts.engines_lost == 0


async def test_engines_come_and_go() -> None:
    async with stubs(3, seconds_per_token=SLOW) as engines:

        async def exchange(controller: RolloutController, present: list[Stub]) -> None:
            await until(lambda: bool(present[0].running))
            await controller.remove_engine(present[0].url)
            await controller.add_engine(engines[2].url)
            await until(lambda: engines[2].seen.chunks > 0)
            # What was sent before it was removed has come there by now.
            chunks = present[0].seen.chunks
            with pytest.raises(ValueError, match="is there already"):
                await controller.add_engine(engines[2].url)
            with pytest.raises(ValueError, match="is not there"):
                await controller.remove_engine(present[0].url)
            await until(lambda: engines[2].seen.chunks > 50)
            assert present[0].seen.chunks == chunks

        samples, taken, _ = await outlasted(engines[:2], exchange)
    assert_undisturbed(samples, taken)


async def test_an_engine_that_serves_another_model_is_not_taken_in() -> None:
    async with stubs(2) as engines:
        engines[1].behaviour.model = "another"
        with pytest.raises(ValueError, match=r"differ in model_path: .*stub.*another"):
            async with RolloutController([engine.url for engine in engines], config=config()):
                pass
        async with RolloutController([engines[0].url], config=config()) as controller:
            with pytest.raises(ValueError, match="model_path"):
                await controller.add_engine(engines[1].url)
            engines[1].behaviour.model = "stub"
            await controller.add_engine(engines[1].url)


async def test_an_engine_that_comes_back_with_another_model_stays_out() -> None:
    async def exchange(controller: RolloutController, engines: list[Stub]) -> None:
        await until(lambda: bool(engines[0].running))
        await engines[0].kill()
        await until(lambda: engines[0].url not in controller.buffer.up)
        engines[0].behaviour.model = "another"
        chunks = engines[0].seen.chunks
        await engines[0].start()
        await until(lambda: "model_path" in controller.links[engines[0].url].last_error)
        assert engines[0].seen.chunks == chunks

    async with stubs(2, seconds_per_token=SLOW) as engines:
        samples, _ = await disturbed(engines, prompts(20), exchange)
    assert_undisturbed(samples, prompts(20))


async def test_no_engine_at_the_start(free_port: int) -> None:
    with pytest.raises(RolloutError, match=f"no engine answers: .*{free_port}"):
        async with RolloutController([f"http://127.0.0.1:{free_port}"], config=config()):
            pass


async def test_one_of_two_at_the_start(free_port: int) -> None:
    async with stubs(1) as engines:
        urls = [engines[0].url, f"http://127.0.0.1:{free_port}"]
        async with RolloutController(urls, config=config()) as controller:
            samples = [sample async for sample in controller.samples(prompts(3))]
    assert_undisturbed(samples, prompts(3))


async def test_no_engine_left_ends_the_rollout_with_what_they_said() -> None:
    async with (
        stubs(2, seconds_per_token=SLOW) as engines,
        RolloutController([engine.url for engine in engines], config=config(no_engine_s=1.0)) as controller,
    ):
        with pytest.raises(RolloutError, match=r"no engine for 1 s: .*127\.0\.0\.1"):
            async for _ in controller.samples(prompts(40)):
                for engine in engines:
                    await engine.kill()
        assert_settled(controller)


async def test_a_request_that_every_engine_refuses_ends_as_an_error() -> None:
    wanted = prompts(3)
    async with stubs(2) as engines, RolloutController([e.url for e in engines], config=config()) as controller:
        # The engines say one context length and keep another.
        for engine in engines:
            engine.behaviour.context_tokens = 7
        samples = [sample async for sample in controller.samples(wanted)]
        assert_settled(controller)
    refused = [sample for sample in samples if sample.finish_reason == "error"]
    assert len(samples) == 12
    assert refused
    assert all("longer than the model's context" in (sample.error or "") for sample in refused)
    # The engines are not to blame.
    assert controller.counts.engines_lost == 0


async def test_a_prompt_beyond_the_context_is_told_before_it_runs() -> None:
    async with stubs(1, context_tokens=100) as engines, RolloutController([engines[0].url], config=config()) as rollout:
        with pytest.raises(ValueError, match=f"'g0': 5 tokens and max_new_tokens {LIMIT}.* 100 in all"):
            async for _ in rollout.samples(prompts(1)):
                pass
        assert_settled(rollout)


async def test_a_healthy_engine_among_strangers_is_found_out(free_port: int) -> None:
    """Whoever listens there is no SGLang: an error that says so, not a hang."""
    engine = Stub(Behaviour(capacity_tokens=0))
    await engine.start()
    with pytest.raises((ValueError, EngineError), match="max_total_num_tokens"):
        async with RolloutController([engine.url], config=config()):
            pass
    await engine.kill()


async def lost_chunks(stalled_s: float) -> tuple[list[Sample], RolloutController]:
    """An engine that forgets what it had and is well again: it answers, and sends nothing of what it forgot."""

    async def forget(controller: RolloutController, engines: list[Stub]) -> None:
        await until(lambda: len(engines[0].running) > 3)
        engines[0].behaviour.fault = "hang"
        await asyncio.sleep(0.1)
        engines[0].behaviour.fault = None

    async with stubs(2, seconds_per_token=SLOW) as engines:
        return await disturbed(engines, prompts(10), forget, stalled_s=stalled_s)


async def test_chunks_that_a_healthy_engine_lost_go_on_elsewhere() -> None:
    samples, controller = await lost_chunks(0.5)
    assert_undisturbed(samples, prompts(10))
    assert controller.counts.broken["stalled"] > 0
    assert controller.counts.engines_lost == 0


async def test_patience_alone_does_not_bring_lost_chunks_back() -> None:
    """Negative control."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(lost_chunks(60.0), 3.0)
