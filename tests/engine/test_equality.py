"""Samples of a Seer server are token for token those of a stock server, whatever is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from .conftest import POOL_TOKENS, Engine, together

LOGPROB_TOLERANCE = 1e-5


def bodies(prompts: list[list[int]], samples: int = 3, *, limit: int = 200, **sampling: Any) -> list[dict[str, Any]]:
    """One request a sample, each with its own seed, siblings with the same prompt."""
    return [
        {
            "input_ids": prompt,
            "sampling_params": {
                "temperature": 1.0,
                "max_new_tokens": limit,
                "sampling_seed": 1000 * i + sample,
                **sampling,
            },
        }
        for i, prompt in enumerate(prompts)
        for sample in range(samples)
    ]


def endless(prompt: list[int]) -> dict[str, Any]:
    """A request to abort, of that name. It is so hot that it accepts no draft: it takes a step for each token."""
    (body,) = bodies([prompt], samples=1, limit=1500, ignore_eos=True, temperature=5.0)
    return {**body, "rid": "endless"}


def by_index(events: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Those of each of many requests."""
    found: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        found.setdefault(event["index"], []).append(event)
    return [found[index] for index in range(len(found))]


def tokens_of(answers: list[Any]) -> list[list[int]]:
    return [answer["output_ids"] for answer in answers]


def ends_of(answers: list[Any]) -> list[Any]:
    return [answer["meta_info"]["finish_reason"] for answer in answers]


def assert_same_logprobs(seen: Any, wanted: Any, *more: str) -> None:
    """Tokens, log-probabilities and top log-probabilities of one answer at every position, and of `more` fields."""
    assert seen["output_ids"] == wanted["output_ids"]
    for key in ("output_token_logprobs", "output_top_logprobs", *more):
        left, right = wanted["meta_info"][key], seen["meta_info"][key]
        assert len(left) == len(right) == len(wanted["output_ids"])
        for ours, theirs in zip(right, left, strict=True):
            pairs = [(ours, theirs)] if key == "output_token_logprobs" else list(zip(ours, theirs, strict=True))
            for (mine, token, _), (stocks, stock_token, _) in pairs:
                assert token == stock_token
                assert mine == pytest.approx(stocks, abs=LOGPROB_TOLERANCE)


SAMPLING = {
    "greedy": {"temperature": 0.0},
    "t1": {},
    "t0.6": {"temperature": 0.6},
    "top_p": {"top_p": 0.9},
    "top_k": {"top_k": 3},
    "top_k_top_p": {"top_k": 20, "top_p": 0.8, "temperature": 1.3},
    "ignore_eos": {"ignore_eos": True},
    "stop_string": {"stop": ["Then", "makes"]},
    "stop_token": {"stop_token_ids": [40]},
    "frequency_penalty": {"frequency_penalty": 0.3},
    "presence_penalty": {"presence_penalty": 0.3},
    "repetition_penalty": {"repetition_penalty": 1.1},
    "min_new_tokens": {"min_new_tokens": 60},
    "logit_bias": {"logit_bias": {"40": 2.0, "41": -3.0}},
}


# With overlap scheduling SGLang counts a penalty a step late, or at once when another batch ran in between: its
# samples then depend on when other requests come, with and without Seer. Without overlap there is one right answer.
COUNTED_LATE = {"frequency_penalty", "presence_penalty", "repetition_penalty", "min_new_tokens"}


@pytest.mark.parametrize(
    ("seer", "name"),
    [("seer", name) for name in SAMPLING if name not in COUNTED_LATE] + [("seer-page16", name) for name in SAMPLING],
    indirect=["seer"],
)
def test_seeded_tokens_are_those_of_stock(stock: Engine, seer: Engine, prompts: list[list[int]], name: str) -> None:
    asked = bodies(prompts[::7], **SAMPLING[name])
    wanted, seen = stock.generate_all(asked), seer.generate_all(asked)
    assert tokens_of(seen) == tokens_of(wanted)
    assert ends_of(seen) == ends_of(wanted)


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_limits_inside_an_accepted_run(stock: Engine, seer: Engine, prompts: list[list[int]], limit: int) -> None:
    asked = bodies(prompts[::7], limit=limit)
    seen = seer.generate_all(asked)
    assert tokens_of(seen) == tokens_of(stock.generate_all(asked))
    assert all(len(tokens) <= limit for tokens in tokens_of(seen))


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
def test_logprobs_at_every_position(stock: Engine, seer: Engine, prompts: list[list[int]], temperature: float) -> None:
    asked = [
        {**body, "return_logprob": True, "top_logprobs_num": 3, "token_ids_logprob": [5, 40]}
        for body in bodies(prompts[::7], temperature=temperature)
    ]
    for wanted, seen in zip(stock.generate_all(asked), seer.generate_all(asked), strict=True):
        assert_same_logprobs(seen, wanted, "output_token_ids_logprobs")


GRAMMARS = {
    "regex": {"regex": "([0-9]+ )+[0-9]"},
    "json_schema": {"json_schema": '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'},
}


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_grammars_beside_free_requests(stock: Engine, seer: Engine, prompts: list[list[int]], grammar: str) -> None:
    """A constrained request takes the plain path while its batch mates draft."""
    asked = bodies(prompts[::9], limit=60)
    for body in asked[::2]:
        body["sampling_params"].update(GRAMMARS[grammar])
    wanted, seen = stock.generate_all(asked), seer.generate_all(asked)
    assert tokens_of(seen) == tokens_of(wanted)
    assert ends_of(seen) == ends_of(wanted)
    free = stock.generate_all(bodies(prompts[::9], limit=60)[::2])
    assert tokens_of(free) != tokens_of(wanted[::2])


# Makes tokens likelier that differ from request to request. Code of __main__ travels whole; code of this module would
# be looked up on the server, which has no such module.
PULL = """
from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

class Pull(CustomLogitProcessor):
    def __call__(self, logits, custom_param_list=None):
        for row, params in enumerate(custom_param_list or ()):
            logits[row, params["from"] : params["to"]] += 4.0
        return logits
"""


def test_custom_logit_processors_beside_free_requests(stock: Engine, seer: Engine, prompts: list[list[int]]) -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(PULL, scope)
    asked = bodies(prompts[::9], limit=60)
    for i, body in enumerate(asked[::2]):
        body["custom_logit_processor"] = scope["Pull"].to_str()
        body["sampling_params"]["custom_params"] = {"from": 20 + i, "to": 26 + i}
    wanted = stock.generate_all(asked)
    assert tokens_of(seer.generate_all(asked)) == tokens_of(wanted)
    free = stock.generate_all(bodies(prompts[::9], limit=60)[::2])
    assert tokens_of(free) != tokens_of(wanted[::2])


def test_n_above_one(stock: Engine, seer: Engine, prompts: list[list[int]]) -> None:
    (asked,) = bodies(prompts[2:3], samples=1, n=4)
    assert tokens_of(seer.generate(asked)) == tokens_of(stock.generate(asked))


def test_streaming_yields_the_same_tokens(stock: Engine, seer: Engine, prompts: list[list[int]]) -> None:
    (asked,) = bodies(prompts[3:4], samples=1)
    wanted = stock.generate(asked)
    events = seer.stream(asked)
    assert events[-1]["output_ids"] == wanted["output_ids"]
    assert events[-1]["text"] == wanted["text"]
    lengths = [len(event["output_ids"]) for event in events]
    assert lengths == sorted(lengths) and len(events) > 1


def test_prefix_cache_hits(stock: Engine, seer: Engine, prompts: list[list[int]]) -> None:
    asked = bodies(prompts[-1:], samples=1, limit=20)
    first = seer.generate(asked[0])
    again = seer.generate(asked[0])
    assert again["output_ids"] == first["output_ids"] == stock.generate(asked[0])["output_ids"]
    assert again["meta_info"]["cached_tokens"] > 0


def test_retraction_under_memory_pressure(stock: Engine, seer: Engine, prompts: list[list[int]]) -> None:
    alone = tokens_of(stock.generate_all(bodies(prompts, samples=1, limit=600)))
    wordy = sorted(range(len(prompts)), key=lambda i: len(alone[i]))[-3:]
    retractions = 0
    for attempt in range(4):
        # After a retraction SGLang admits less boldly for a while, on either side.
        asked = bodies([prompts[i] for i in wordy], samples=4 + attempt, limit=600)
        wanted, seen = stock.generate_all(asked), seer.generate_together(asked)
        assert tokens_of(seen) == tokens_of(wanted)
        assert sum(map(len, tokens_of(seen))) > 1.5 * POOL_TOKENS
        retractions += sum(answer["meta_info"]["num_retractions"] for answer in seen)
        if retractions:
            break
    assert retractions > 0
    seer.assert_idle_and_clean()


def test_abort_in_mid_flight_leaves_the_others_alone(stock: Engine, seer: Engine, prompts: list[list[int]]) -> None:
    asked = bodies(prompts[1:4], samples=2)
    wanted = stock.generate_all(asked)
    with seer.streaming(endless(prompts[4])) as doomed, seer.streaming(together(asked)) as others:
        next(doomed), next(others)
        assert seer.post("/abort_request", {"rid": "endless"}).status_code == 200
        *_, aborted = doomed
        assert aborted["meta_info"]["finish_reason"]["type"] == "abort"
        assert tokens_of([parts[-1] for parts in by_index(others)]) == tokens_of(wanted)
    seer.assert_idle_and_clean()


def test_plain_path_is_counted(seer: Engine, prompts: list[list[int]]) -> None:
    before = seer.status()["counters"].get("plain_path_steps", 0)
    seer.generate_all(bodies(prompts[:1], samples=2, limit=20, presence_penalty=0.5, ignore_eos=True))
    assert seer.status()["counters"]["plain_path_steps"] >= before + 2 * 19


def test_siblings_of_a_finished_sample_need_fewer_steps(seer: Engine, prompts: list[list[int]]) -> None:
    """The same samples, alone and in the company of finished siblings: what is drafted is what siblings said."""
    asked = bodies(prompts[-3:-2], samples=4, limit=300)
    seer.assert_idle_and_clean()  # the flush also empties the index
    first = seer.generate(asked[0])["meta_info"]["spec_verify_ct"]
    for body in asked[1:]:
        seer.generate(body)
    seer.assert_idle_and_clean()
    for body in asked[1:]:
        seer.generate(body)
    with_siblings = seer.generate(asked[0])["meta_info"]["spec_verify_ct"]
    assert with_siblings < 0.85 * first


def test_without_siblings_nothing_is_gained(seer: Engine, prompts: list[list[int]]) -> None:
    """Negative control of the test above: after a flush the sample needs as many steps as before, or nearly so.

    Nearly: what is likely is still known of the samples before.
    """
    counts = [0, 0]
    for asked in bodies(prompts[-3:-2], samples=4, limit=300):
        for number in range(2):
            seer.assert_idle_and_clean()
            counts[number] += seer.generate(asked)["meta_info"]["spec_verify_ct"]
    assert counts[1] > 0.85 * counts[0]


def test_a_verifier_with_the_wrong_noise_is_caught(
    stock: Engine, engine_of: Callable[[str], Engine], prompts: list[list[int]]
) -> None:
    """Negative control of every seeded test: noise of the neighbouring position gives other samples."""
    asked = bodies(prompts[::7])
    assert tokens_of(engine_of("mutant").generate_all(asked)) != tokens_of(stock.generate_all(asked))
    greedy = bodies(prompts[::7], temperature=0.0)
    assert tokens_of(engine_of("mutant").generate_all(greedy)) == tokens_of(stock.generate_all(greedy))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_a_gpu_runs_as_far_as_a_cpu_can(
    stock: Engine, engine_of: Callable[[str], Engine], prompts: list[list[int]], temperature: float
) -> None:
    """Triton's interpreter draws, walks and scores; each width of a step has its own attention state."""
    engine = engine_of("as-on-gpu")
    asked = [
        {**body, "return_logprob": True, "top_logprobs_num": 2}
        for body in bodies(prompts[2:4], limit=40, temperature=temperature)
    ]
    for wanted, seen in zip(stock.generate_all(asked), engine.generate_all(asked), strict=True):
        assert_same_logprobs(seen, wanted)
    counters = engine.status()["counters"]
    assert counters["drafted"] > 0
    widths = {int(name.rpartition("_")[2]) for name in counters if name.startswith("steps_of_width_")}
    assert widths <= {0, 4, 8, 16} and len(widths) > 1


def test_status_says_what_is_active(seer: Engine, prompts: list[list[int]]) -> None:
    for _ in range(2):
        # The second time all of it has been said before.
        seer.generate_all(bodies(prompts[::9], limit=60))
    status = seer.status()
    assert status["mode"] == "on" and status["parts"] == ["scheduling", "speculation"]
    assert not status["reasons"]
    for call in ("calc_priority", "process_batch_result", "verify"):
        assert status["calls"][call] > 0
    assert status["counters"]["drafted"] > 0 and status["counters"]["ordered"] > 0
    log = seer.server.log.read_text()
    for line in ("seer: on on SGLang", "ordered its first queue", "verified its first drafts"):
        assert log.count(line) == 1
