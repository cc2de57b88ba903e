"""slime's loop over engines that compute nothing: over-sampling, abort, death and other weights, in a second each.

Tokens of a stub are a hash of seed and position, so what is right is known without an engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pytest

from bench.controller.stub import Behaviour, Stub, whole_response
from sglang_seer.integrations.slime import GENERATE_PATH, generate_rollout
from sglang_seer.rollout import RolloutError
from tests.integrations.slime_side import Prompts, Sample, arguments, meanwhile, rollout, routing, run
from tests.rollout.fleet_of_stubs import FAST, until

LIMIT = 120
MEAN_TOKENS = 80
TEXTS = ["one", "two and two", "three"]


@contextmanager
def engines(count: int, **behaviour: Any) -> Iterator[tuple[list[Stub], int]]:
    """Stubs in slime's loop, and the port of their router."""
    stubs = [Stub(Behaviour(mean_tokens=MEAN_TOKENS, **behaviour)) for _ in range(count)]
    for stub in stubs:
        run(stub.start())
    try:
        with routing([stub.url for stub in stubs]) as port:
            yield stubs, port
    finally:
        for stub in stubs:
            run(stub.kill())


def args_of(port: int, **options: Any) -> Any:
    config = {"chunk_tokens": 16, "stream_tokens": 4, **FAST}
    return arguments(port, **{"rollout_max_response_len": LIMIT, "seer_rollout": config, **options})


def right(args: Any, sample: Any) -> tuple[list[int], list[float]]:
    seed = args.rollout_seed + sample.index % args.n_samples_per_prompt
    return whole_response(seed, len(sample.tokens) - sample.response_length, LIMIT, MEAN_TOKENS)


def assert_right(args: Any, sample: Any) -> None:
    tokens, log_probs = right(args, sample)
    assert sample.tokens[-sample.response_length :] == tokens
    assert sample.rollout_log_probs == log_probs
    assert sample.status is (Sample.Status.COMPLETED if tokens[-1] == 2 else Sample.Status.TRUNCATED)
    assert sample.loss_mask == [1] * len(tokens)


@pytest.mark.parametrize("function", [generate_rollout, rollout.generate_rollout], ids=["ours", "slimes"])
def test_over_sampling_with_partial_rollout(function: Any) -> None:
    """What is aborted has what it had, goes on in the next step, and ends as if it never was."""
    with engines(2, seconds_per_token=0.002, slots=3) as (_, port):
        options = {"rollout_batch_size": 2, "over_sampling_batch_size": 5, "partial_rollout": True}
        args = args_of(port, custom_generate_function_path=GENERATE_PATH, **options)
        source = Prompts(args, TEXTS)
        cut = ended = 0
        for step in range(4):
            output = function(args, step, source)
            for sample in chain(*output.samples):
                ended += 1
                assert_right(args, sample)
            for sample in chain(*source.given_back):
                if sample.status is Sample.Status.ABORTED and sample.response_length:
                    cut += 1
                    tokens, log_probs = right(args, sample)
                    assert sample.tokens[-sample.response_length :] == tokens[: sample.response_length]
                    assert sample.rollout_log_probs == log_probs[: sample.response_length]
        assert ended == 4 * 2 * 3
        assert cut > 3


def test_an_engine_dies() -> None:
    with engines(2, seconds_per_token=0.004) as (stubs, port):
        args = args_of(port, rollout_batch_size=6, over_sampling_batch_size=6)

        async def kill() -> None:
            await until(lambda: stubs[1].seen.chunks >= 12 and bool(stubs[1].running))
            await stubs[1].kill()

        killer = meanwhile(kill())
        output = generate_rollout(args, 0, Prompts(args, TEXTS))
        killer.result()
        for sample in chain(*output.samples):
            assert_right(args, sample)
        assert output.metrics["seer/engines_lost"] >= 1
        assert output.metrics["seer/broken"] > 0


def test_no_engine_is_left() -> None:
    with engines(1) as (stubs, port):
        stubs[0].behaviour.fault = "error"
        args = args_of(port)
        with pytest.raises((RolloutError, RuntimeError), match=r"no engine answers: .* status 500"):
            generate_rollout(args, 0, Prompts(args, TEXTS))


def test_other_weights_in_the_next_step() -> None:
    """Samples name their weights; engines that differ are refused; new ones are met at the next rollout."""
    with engines(2) as (stubs, port):
        args = args_of(port, rollout_batch_size=2, over_sampling_batch_size=2)
        source = Prompts(args, TEXTS)
        for version in ("1", "2"):
            for stub in stubs:
                stub.behaviour.weight_version = version
            for sample in chain(*generate_rollout(args, 0, source).samples):
                assert sample.weight_versions == [version]
        stubs[1].behaviour.weight_version = "3"
        with pytest.raises(ValueError, match=r"the same weights; weight_version: .*'2'.*'3'"):
            generate_rollout(args, 0, source)


def test_engines_are_let_go_between_rollouts() -> None:
    """Nobody asks them for their load then: slime puts them to sleep."""
    with engines(1) as (stubs, port):
        args = args_of(port, rollout_batch_size=1, over_sampling_batch_size=1)
        generate_rollout(args, 0, Prompts(args, TEXTS))
        asked = len(stubs[0].connections)
        run(asyncio.sleep(3 * FAST["poll_s"]))
        assert len(stubs[0].connections) <= asked
        stubs[0].behaviour.fault = "hang"
        run(asyncio.sleep(2 * FAST["silent_s"]))
        stubs[0].behaviour.fault = None
        output = generate_rollout(args, 1, Prompts(args, TEXTS))
        assert output.metrics["seer/engines_lost"] == 0
