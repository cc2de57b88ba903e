"""What sglang_seer.integrations.slime refuses, and what it writes on a sample, without engines."""

from __future__ import annotations

import base64
import importlib.metadata
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sglang_seer.integrations.slime import compat, generate, generate_rollout
from sglang_seer.integrations.slime.engines import engines_of_process
from sglang_seer.integrations.slime.replay import cut_routed_experts, cut_top_p
from sglang_seer.integrations.slime.turn import MARK, Turn
from sglang_seer.rollout.link import EngineFacts
from sglang_seer.rollout.samples import Chunk
from sglang_seer.rollout.samples import Sample as Ended
from sglang_seer.rollout.stream import FinishReason, Part
from sglang_seer.rollout.verdict import Verdict
from tests.integrations.slime_side import Prompts, Sample, arguments, routing, run

LAYERS, EXPERTS = 2, 3


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    compat.framework_reasons.cache_clear()
    yield
    compat.framework_reasons.cache_clear()


# What is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sglang_router_ip": None}, r"got None and 1, wanted slime's router"),
        ({"over_sampling_batch_size": 6}, r"over_sampling_batch_size 6 with rollout_batch_size 3 .* thrown away"),
        ({"seer_rollout": {"chunk": 3}}, r"unknown key 'chunk'; known are chunk_tokens"),
        ({"seer_rollout": {"chunk_tokens": 0}}, r"chunk_tokens: got 0, wanted at least 1"),
        ({"seer_rollout": 3}, r"seer_rollout: got int"),
    ],
)
def test_settings_that_are_refused(options: dict[str, Any], said: str) -> None:
    args = arguments(1, **options)
    with pytest.raises(ValueError, match=said):
        generate_rollout(args, 0, Prompts(args, ["1"]))
    with pytest.raises(ValueError, match=said):
        run(generate(args, Sample(prompt="1"), {"max_new_tokens": 4}))


@pytest.mark.parametrize("options", [{"partial_rollout": True}, {"seer_allow_dropped_groups": True}, {}])
def test_settings_that_are_taken(options: dict[str, Any]) -> None:
    size = 6 if options else 3
    assert compat.setting_reasons(arguments(1, over_sampling_batch_size=size, **options)) == []


def test_every_reason_at_once() -> None:
    args = arguments(None, over_sampling_batch_size=6)
    with pytest.raises(ValueError, match=r"wanted slime's router.*; over_sampling_batch_size 6"):
        compat.check(args)


def test_a_router_that_does_not_answer(free_port: int) -> None:
    args = arguments(free_port)
    with pytest.raises(RuntimeError, match=rf"router http://127.0.0.1:{free_port}: wanted its workers"):
        run(generate(args, Sample(prompt="1"), {"max_new_tokens": 4}))


def test_a_router_without_workers() -> None:
    with routing([]) as port, pytest.raises(RuntimeError, match="no workers"):
        run(generate(arguments(port), Sample(prompt="1"), {"max_new_tokens": 4}))


def test_another_slime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "version", lambda name: "9.9.9")
    with pytest.raises(ValueError, match=r"slime 9.9.9 was not tested; tested: 0.3.1 \(SGLANG_SEER_ALLOW_UNTESTED=1"):
        compat.check(arguments(1))
    compat.framework_reasons.cache_clear()
    monkeypatch.setenv(compat.ALLOW_UNTESTED_ENV, "1")
    compat.check(arguments(1))


def test_a_slime_whose_functions_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the version says nothing: a checkout on the path has none."""

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(compat, "version", missing)
    assert compat.framework_reasons() == ()
    compat.framework_reasons.cache_clear()
    monkeypatch.setattr(Sample, "append_response_tokens", lambda self, args=None, *, tokens=None: None)
    monkeypatch.delattr(compat.slime("utils.async_utils"), "run")
    said = "; ".join(compat.framework_reasons())
    assert "append_response_tokens: wanted parameters log_probs, meta_info, text, trainable" in said
    assert "slime.utils.async_utils: wanted run" in said


def facts(version: str, seer: str) -> EngineFacts:
    return EngineFacts({"version": version}, 100, None, None, None, False, seer)


def test_engines_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compat.engine_reasons({"a": facts("0.5.23", "on"), "b": facts("0.5.23", "on")}) == []
    (mixed,) = compat.engine_reasons({"a": facts("0.5.23", "on"), "b": facts("0.5.23", "off")})
    assert mixed == "Seer must run alike on all engines; saw a: on, b: off"
    (untested,) = compat.engine_reasons({"a": facts("0.4.0", "off")})
    assert untested.startswith("SGLang 0.4.0 was not tested; tested: ")
    monkeypatch.setenv(compat.ALLOW_UNTESTED_ENV, "1")
    assert compat.engine_reasons({"a": facts("0.4.0", "off")}) == []


def test_a_sample_that_is_done_is_none_to_go_on_with() -> None:
    sample = Sample(index=3, prompt="1", status=Sample.Status.COMPLETED)
    with pytest.raises(ValueError, match=r"sample 3: status is .*COMPLETED, wanted PENDING or ABORTED"):
        run(generate(arguments(1), sample, {"max_new_tokens": 4}))


def test_a_sample_without_room() -> None:
    sample = run(generate(arguments(1), Sample(prompt="1"), {"max_new_tokens": 0}))
    assert sample.status is Sample.Status.TRUNCATED and sample.response_length == 0


@pytest.mark.parametrize(("function", "more"), [(generate, ["evaluation"]), (generate_rollout, [])])
def test_they_are_called_as_slimes_own(function: Any, more: list[str]) -> None:
    own = getattr(compat.slime("rollout.sglang_rollout"), function.__name__)
    ours, theirs = (list(inspect.signature(one).parameters.values()) for one in (function, own))
    assert [one.name for one in ours] == [one.name for one in theirs] + more
    assert [(one.kind, one.default) for one in ours[: len(theirs)]] == [(one.kind, one.default) for one in theirs]


def test_one_buffer_a_process() -> None:
    async def same(*args: Any) -> bool:
        return len({id(engines_of_process(one)) for one in args}) == 1

    assert run(same(arguments(1), arguments(1)))
    assert not run(same(arguments(1), arguments(2)))


def test_images_take_slimes_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    async def own(args: Any, sample: Any, sampling_params: Any) -> Any:
        sample.response = "an image"
        return sample

    monkeypatch.setattr(compat.slime("rollout.sglang_rollout"), "generate", own)
    args = arguments(1)

    async def passed_on() -> float:
        engines_of_process(args).take_metrics()
        sample = await generate(args, Sample(prompt="1", multimodal_inputs={"images": [1]}), {"max_new_tokens": 4})
        assert sample.response == "an image"
        return engines_of_process(args).take_metrics()["seer/passed_on"]

    assert run(passed_on()) == 1


# What a turn writes


def encoded(values: Any) -> str:
    return base64.b64encode(np.asarray(values, dtype=np.int32).tobytes()).decode()


def experts_of(position: int) -> list[int]:
    return [position * 10 + number for number in range(LAYERS * EXPERTS)]


def chunk(turn: Turn, tokens: list[int], *, kept: int | None = None, end: str | None = "length") -> None:
    """A chunk as an engine sends it, with what it was asked for; `kept` tokens of it are."""
    sample, meta = turn.sample, {"prompt_tokens": len(turn.sample.tokens), "cached_tokens": 2, "spec_verify_ct": 1}
    asked = turn.body()
    if asked:
        rows = range(asked["routed_experts_start_len"], len(sample.tokens) + len(tokens) - 1)
        if end is not None:
            meta["routed_experts"] = encoded([experts_of(row) for row in rows])
    if end is not None and turn._args.rollout_top_p != 1.0:
        meta["top_p_token_ids"] = encoded([one for token in tokens for one in (token, token + 1)])
        meta["top_p_token_offsets"] = encoded([2 * number for number in range(len(tokens) + 1)])
    part = Part(
        output_ids=tokens,
        logprobs=[-float(token) for token in tokens],
        finish=FinishReason(end) if end else None,
        meta=meta,
    )
    if turn.usable(part):
        kept = len(tokens) if kept is None else kept
        assert part.logprobs is not None
        turn.kept(part, Verdict(tokens[:kept], part.logprobs[:kept], "length"))


def ended(turn: Turn, reason: str = "stop", versions: tuple[str, ...] = ("1",)) -> Ended:
    chunks = [Chunk(engine="e", tokens=1, end="length", input_tokens=1, weight_version=one) for one in versions]
    return Ended(
        group="g", sample=0, seed=1, input_ids=turn.input_ids, output_ids=[], finish_reason=reason, text="text",
        chunks=chunks,
    )  # fmt: skip


def replaying(**options: Any) -> Any:
    return arguments(1, num_layers=LAYERS, moe_router_topk=EXPERTS, **options)


@pytest.mark.parametrize("kept", [3, 1], ids=["whole", "cut"])
def test_routed_experts_over_seams(kept: int) -> None:
    """One row for each token but the last, as of one request; a broken chunk has none, the next has them too."""
    sample = Sample(tokens=[1, 2, 3])
    turn = Turn(replaying(use_rollout_routing_replay=True), sample, 100)
    chunk(turn, [4, 5])
    chunk(turn, [6, 7], end=None)
    chunk(turn, [8, 9, 10], kept=kept)
    rows = sample.rollout_routed_experts.reshape(len(sample.tokens) - 1, -1).tolist()
    assert sample.tokens == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10][: 7 + kept]
    assert rows == [experts_of(row) for row in range(len(sample.tokens) - 1)]


def test_top_p_over_seams() -> None:
    """Kept ids of every token; a chunk that broke off has none, so it counts for nothing."""
    sample = Sample(tokens=[1, 2, 3])
    turn = Turn(replaying(rollout_top_p=0.9), sample, 100)
    chunk(turn, [4, 5])
    chunk(turn, [6, 7], end=None)
    chunk(turn, [6, 7, 8], kept=2)
    sample.append_response_tokens(None, tokens=[90, 91], trainable=False)
    assert sample.tokens == [1, 2, 3, 4, 5, 6, 7, 90, 91]
    assert list(sample.rollout_top_p_token_ids) == [4, 5, 5, 6, 6, 7, 7, 8]
    assert list(sample.rollout_top_p_token_offsets) == [0, 2, 4, 6, 8, 8, 8]
    assert sample.loss_mask == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"top_p_token_ids": [1]}, "got no top_p_token_offsets"),
        ({"top_p_token_ids": [1], "top_p_token_offsets": [0, 1]}, "got 2 offsets, wanted at least 3"),
        ({"top_p_token_ids": [1], "top_p_token_offsets": [0, 1, 2]}, "got 1 token ids, wanted at least 2"),
    ],
)
def test_replay_data_that_is_none(meta: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cut_top_p(meta, 2)
    with pytest.raises(ValueError, match="got 2 numbers, wanted at least 3"):
        cut_routed_experts([1, 2], 3)


def test_counters_are_those_of_one_request() -> None:
    sample = Sample(tokens=[1, 2, 3])
    turn = Turn(arguments(1), sample, 100)
    chunk(turn, [4, 5])
    chunk(turn, [6, 7])
    assert sample.status is Sample.Status.PENDING and sample.response == ""
    meta = turn.finish(ended(turn, versions=("1", "2")))
    assert (sample.prefix_cache_info.total_prompt_tokens, sample.prefix_cache_info.cached_tokens) == (3, 2)
    assert (meta["completion_tokens"], meta["spec_verify_ct"]) == (4, 2)
    assert sample.weight_versions == ["1", "2"]
    assert (sample.status, sample.response) == (Sample.Status.COMPLETED, "text")
    assert sample.rollout_log_probs == [-4.0, -5.0, -6.0, -7.0]


def test_an_aborted_turn_goes_on_where_it_was() -> None:
    """Also after a turn before: the limit, the text and the seam are the turn's."""
    sample = Sample(tokens=[1, 2, 3], response="first", response_length=1, rollout_log_probs=[0.0], loss_mask=[1])
    turn = Turn(arguments(1), sample, 100)
    chunk(turn, [4, 5])
    turn.finish(ended(turn, "cancelled"))
    assert (sample.status, sample.response) == (Sample.Status.ABORTED, "firsttext")
    again = Turn(arguments(1), sample, 100)
    assert (again.start, again.done, again.limit) == (1, 2, turn.limit)
    assert (again.input_ids, again.output_ids) == ([1, 2, 3], [4, 5])
    chunk(again, [6])
    again.finish(ended(again))
    assert (sample.response, sample.status) == ("firsttext", Sample.Status.COMPLETED)
    assert MARK not in sample.metadata
    # Whoever goes on with another turn begins a new one.
    sample.status = Sample.Status.PENDING
    assert Turn(arguments(1), sample, 100).done == 0
