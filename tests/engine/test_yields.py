"""A request that leaves at the end of its chunk and comes back: nobody can tell from its sample."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_seer.engine.yields import may_yield

from .conftest import Engine, together
from .test_equality import assert_same_logprobs, bodies, by_index, endless, ends_of, tokens_of
from .test_sharing import until


def yields_of(engine: Engine) -> int:
    return int(engine.status()["counters"].get("yields", 0))


def crowd(prompts: list[list[int]], **sampling: Any) -> list[dict[str, Any]]:
    """Four times as many as can run, of groups that nothing is known of: whoever waits is worth a place."""
    return bodies(prompts, samples=2, limit=100, **sampling)


def test_samples_and_logprobs_of_requests_that_yielded(stock: Engine, seer: Engine, prompts: list[list[int]]) -> None:
    seer.assert_idle_and_clean()
    before = yields_of(seer)
    asked = [{**body, "return_logprob": True, "top_logprobs_num": 2} for body in crowd(prompts)]
    # Its prompt's log-probabilities would be lost on the way: such a request stays.
    asked[0]["logprob_start_len"] = 0
    wanted, seen = stock.generate_all(asked), seer.generate_together(asked)
    assert yields_of(seer) > before
    assert ends_of(seen) == ends_of(wanted)
    for theirs, ours in zip(wanted, seen, strict=True):
        assert_same_logprobs(ours, theirs)
        assert len(ours["meta_info"]["input_token_logprobs"]) == len(theirs["meta_info"]["input_token_logprobs"])
    assert len(seen[0]["meta_info"]["input_token_logprobs"]) == len(asked[0]["input_ids"])
    seer.assert_idle_and_clean()


def test_a_yield_costs_one_page_of_prefill(stock: Engine, seer: Engine, prompts: list[list[int]]) -> None:
    """A few more than can run, and room in the pool for all of them."""
    seer.assert_idle_and_clean()
    before = seer.status()["counters"]
    asked = bodies(prompts[:14], samples=1, limit=100)
    wanted, seen = stock.generate_all(asked), seer.generate_together(asked)
    assert tokens_of(seen) == tokens_of(wanted)
    assert sum(answer["meta_info"]["num_retractions"] for answer in seen) == 0
    after = seer.status()["counters"]
    resumed, prefilled = (after[key] - before.get(key, 0) for key in ("yields_resumed", "yield_tokens_prefilled"))
    assert resumed > 0
    page = 16 if seer.server.plan.label == "seer-page16" else 1
    assert resumed <= prefilled <= resumed * page


def test_streams_stop_strings_and_aborts_over_a_yield(stock: Engine, seer: Engine, prompts: list[list[int]]) -> None:
    seer.assert_idle_and_clean()
    before = yields_of(seer)
    asked = crowd(prompts)
    # The others run for longer than a chunk.
    for body in asked[::2]:
        body["sampling_params"]["stop"] = ["Then", "makes"]
    wanted = stock.generate_all(asked)
    with seer.streaming(endless(prompts[4])) as doomed, seer.streaming(together(asked)) as others:
        next(doomed)
        until(lambda: yields_of(seer) > before)
        seer.post("/abort_request", {"rid": "endless"})
        *_, aborted = doomed
        assert aborted["meta_info"]["finish_reason"]["type"] == "abort"
        events = by_index(others)
    assert tokens_of([parts[-1] for parts in events]) == tokens_of(wanted)
    assert [parts[-1]["text"] for parts in events] == [answer["text"] for answer in wanted]
    for parts in events:
        lengths = [len(part["output_ids"]) for part in parts]
        assert lengths == sorted(lengths)
    seer.assert_idle_and_clean()


def test_samples_that_yielded_under_a_hierarchical_cache(
    stock: Engine, engine_of: Callable[[str], Engine], prompts: list[list[int]]
) -> None:
    """Their pages go to host memory and to a store, which brings back what the pool had no room for."""
    seer = engine_of("seer-hicache")
    asked = [{**body, "return_logprob": True, "top_logprobs_num": 2} for body in crowd(prompts)]
    wanted, seen = stock.generate_all(asked), seer.generate_together(asked)
    after = seer.status()["counters"]
    assert after["yields"] > 0 and after["yields_resumed"] > 0
    assert ends_of(seen) == ends_of(wanted)
    for theirs, ours in zip(wanted, seen, strict=True):
        assert_same_logprobs(ours, theirs)
    # Once nothing is on its way to the store any more.
    seer.assert_idle_and_clean()
    assert list((seer.server.log.parent / "kv").glob("*.bin"))


def test_nobody_yields_while_nobody_waits(stock: Engine, seer: Engine, prompts: list[list[int]]) -> None:
    """Negative control: chunks end as well, but there is room for all, also where each goes on to its limit."""
    before = yields_of(seer)
    asked = bodies(prompts[::7], samples=2, limit=150)
    assert tokens_of(seer.generate_together(asked)) == tokens_of(stock.generate_all(asked))
    assert yields_of(seer) == before


PLAIN = {
    "return_logprob": False,
    "logprob_start_len": -1,
    "origin_input_ids": [1, 2, 3],
    "session": None,
    "beam_group": None,
    "multimodal_inputs": None,
    "input_embeds": None,
    "return_hidden_states": False,
    "return_routed_experts": False,
    "grammar": None,
    "custom_logit_processor": None,
}


@pytest.mark.parametrize(
    ("changes", "may"),
    [
        ({}, True),
        ({"return_logprob": True, "logprob_start_len": 3}, True),
        ({"return_logprob": True, "logprob_start_len": 2}, False),
        ({"session": object()}, False),
        ({"beam_group": object()}, False),
        ({"multimodal_inputs": object()}, False),
        ({"input_embeds": [[0.0]]}, False),
        ({"return_hidden_states": True}, False),
        ({"return_routed_experts": True}, False),
        ({"grammar": object()}, False),
        ({"custom_logit_processor": "x"}, False),
    ],
)
def test_who_may_yield(changes: dict[str, Any], may: bool) -> None:
    parameters = SimpleNamespace(
        frequency_penalty=0.0, presence_penalty=0.0, repetition_penalty=1.0, min_new_tokens=0, logit_bias=None
    )
    assert may_yield(SimpleNamespace(**{**PLAIN, "sampling_params": parameters, **changes})) is may
