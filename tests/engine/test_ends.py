"""Runs of any length end SGLang's own requests where single tokens do."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang.srt.managers.schedule_batch import FINISH_ABORT, Req
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.utils.hf_transformers_utils import get_tokenizer

from sglang_seer.engine.ends import end_inside_run
from tests.reasoner import REASONER

check = Req.update_finish_state
End = Callable[[Any, int], None]
# Of the example's model: pieces of its language, so that stops are met and cut anywhere.
TEXT = "Now #1=48.\nThen #2=27: 48+27, ones 8+7=15, tens 4+2+1=7, so 75.\nTotal 75.\nAnswer: 75"
STOPS = ["Then", "ones", "n #", "=", "75", ".\nT", "tens 4", "r: 7", "+", "Answer: 75Now"]
REGEXES = ["[0-9]=", "o[mn]es", "t.n", "7$", "ones|tens", "= ?7"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return get_tokenizer(str(REASONER / "model"))


def request(tokenizer: Any, parameters: dict[str, Any]) -> Req:
    sampling = SamplingParams(**parameters)
    sampling.normalize(tokenizer)
    made = Req("one", "", array("q", [5, 6]), sampling, eos_token_ids={tokenizer.eos_token_id}, vocab_size=384)
    made.tokenizer = tokenizer
    return made


def ended(made: Req, text: list[int], runs: list[int], end: End) -> tuple[list[int], dict[str, Any] | None]:
    """What counts of the text, cut into runs, and the reason."""
    place = 0
    for tokens in runs:
        run = text[place : place + tokens]
        made.output_ids.extend(run)
        end(made, len(run))
        place += tokens
        if made.finished():
            # KV of the whole run is there.
            assert list(made.output_ids) == text[:place]
            break
    return list(made.output_ids_through_stop), made.finished_reason and made.finished_reason.to_json()


def one_by_one(tokenizer: Any, parameters: dict[str, Any], text: list[int]) -> tuple[list[int], dict[str, Any] | None]:
    return ended(request(tokenizer, parameters), text, [1] * len(text), check)


parameters_of = st.fixed_dictionaries(
    {"max_new_tokens": st.integers(2, 90)},
    optional={
        "stop": st.lists(st.sampled_from(STOPS), min_size=1, max_size=3),
        "stop_regex": st.lists(st.sampled_from(REGEXES), min_size=1, max_size=2),
        "stop_token_ids": st.lists(st.integers(0, 383), min_size=1, max_size=4),
        "ignore_eos": st.booleans(),
    },
)


@settings(max_examples=300, deadline=None)
@given(
    parameters=parameters_of,
    cuts=st.lists(st.tuples(st.integers(0, 80), st.just(3) | st.integers(0, 383)), max_size=6),
    runs=st.lists(st.integers(1, 17), min_size=80, max_size=80),
)
def test_runs_end_where_single_tokens_do(
    tokenizer: Any, parameters: dict[str, Any], cuts: list[tuple[int, int]], runs: list[int]
) -> None:
    text = tokenizer.encode(TEXT)
    for place, token in cuts:
        text.insert(min(place, len(text)), token)
    # As many as fit: the budget of drafts ends at the limit.
    text = text[: parameters["max_new_tokens"]]
    found = ended(request(tokenizer, parameters), text, runs, lambda made, tokens: end_inside_run(check, made, tokens))
    assert found == one_by_one(tokenizer, parameters, text)


def test_sglang_alone_ends_runs_elsewhere(tokenizer: Any) -> None:
    """Negative control: the same without our loop."""
    text = tokenizer.encode(TEXT)
    parameters = {"max_new_tokens": 90, "stop": ["Then", "="]}
    kept, reason = one_by_one(tokenizer, parameters, text)
    assert reason == {"type": "stop", "matched": "="}
    seen, other = ended(request(tokenizer, parameters), text, [len(text)], check)
    assert other == {"type": "stop", "matched": "Then"} and len(seen) > len(kept)


def test_an_abort_is_left_to_sglang(tokenizer: Any) -> None:
    made = request(tokenizer, {"max_new_tokens": 90, "stop": ["="]})
    made.output_ids.extend(tokenizer.encode("Now #1=48.\nThen"))
    made.to_finish = FINISH_ABORT("stop it")
    end_inside_run(check, made, len(made.output_ids))
    assert made.finished_reason is not None and made.finished_reason.to_json()["type"] == "abort"
    assert made.finished_len is None
