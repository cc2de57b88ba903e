"""What veRL asks for, read as chunks; no veRL in here."""

from __future__ import annotations

from typing import Any

import pytest

from sglang_seer.integrations.verl.chunks import Lengths, group_of_prompt, limit_of, part_of, read
from sglang_seer.integrations.verl.facts import OFF, mended, seer_of
from sglang_seer.integrations.verl.trajectory import Trajectory, current, trajectory_of, within
from sglang_seer.integrations.verl.versions import config_reasons, version_reasons

LENGTHS = Lengths(prompt_length=100, response_length=200, max_model_len=1000)


@pytest.mark.parametrize(
    ("sampling", "prompt", "limit"),
    [
        ({}, 50, 200),
        ({}, 150, 150),
        ({"max_tokens": 7}, 50, 7),
        ({"max_new_tokens": 9, "max_tokens": 7}, 50, 9),
        ({"max_tokens": 5000}, 50, 949),
        ({"max_tokens": 5}, 999, 0),
    ],
)
def test_the_limit_is_veRLs(sampling: dict[str, Any], prompt: int, limit: int) -> None:
    assert limit_of(sampling, prompt, LENGTHS) == limit


def ask(sampling: dict[str, Any], *, prompt_tokens: int = 50, media: bool = False) -> Any:
    return read(sampling, prompt_tokens=prompt_tokens, lengths=LENGTHS, tokenizer=True, media=media)


def test_veRLs_parameters_become_SGLangs() -> None:
    # What veRL's worker sends with each request.
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0, "logprobs": True}
    asked = ask(sampling)
    assert (asked.logprobs, asked.plan.limit, asked.plan.whole, asked.seed) == (True, 200, (), None)
    sent = asked.plan.chunk_sampling(generated=0, tokens=16, seed=3, hints={"group": "g"})
    assert sent["custom_params"] == {"seer": {"group": "g"}}
    assert not {"logprobs", "max_tokens"} & set(sent)


@pytest.mark.parametrize(("sampling", "prompt"), [({"prompt_logprobs": 0}, 50), ({}, 999), ({"max_tokens": 0}, 50)])
def test_what_goes_veRLs_own_way(sampling: dict[str, Any], prompt: int) -> None:
    assert ask(sampling, prompt_tokens=prompt) is None


def test_media_run_whole() -> None:
    assert ask({}, media=True).plan.whole == ("media: placeholders of the prompt are filled in by the engine",)


def test_what_is_not_exact_in_chunks_runs_whole() -> None:
    assert ask({"frequency_penalty": 0.1}).plan.whole == ("frequency_penalty: depends on the whole output",)


@pytest.mark.parametrize(
    ("tokens", "logprobs", "stop", "said"),
    [
        ([], [], "length", "no tokens: veRL's server gave an empty response with stop_reason 'length'"),
        ([], None, None, "no tokens: veRL's server gave an empty response with stop_reason None"),
        ([1, 2], [-0.1], "stop", "log-probabilities: got 1 for 2 tokens"),
        ([1, 2], None, "stop", "log-probabilities: got 0 for 2 tokens"),
    ],
)
def test_answers_that_are_none(tokens: list[int], logprobs: Any, stop: str | None, said: str) -> None:
    assert part_of(tokens, logprobs, stop, wanted=True) == (None, said)


def test_answers() -> None:
    part, broken = part_of([1, 2], [-0.1, -0.2], "stop", wanted=True)
    assert broken is None and part is not None and part.finish is not None
    assert (part.output_ids, part.logprobs, part.finish.type) == ([1, 2], [-0.1, -0.2], "stop")
    aborted, broken = part_of([], [], "aborted", wanted=True)
    assert broken is None and aborted is not None and aborted.finish is not None
    assert (aborted.output_ids, aborted.finish.type) == ([], "abort")


def test_whose_sample_it_is() -> None:
    assert trajectory_of({"uid": "u", "session_id": 3, "priority": 9}, 1) == Trajectory("u", 3)
    assert trajectory_of({"uid": "u", "priority": 9}, 1) == Trajectory("u", 9)
    assert trajectory_of({}, 1) == Trajectory(None, 1)
    with within(Trajectory("u", 3)):
        assert current() == Trajectory("u", 3)
    assert current() == Trajectory(None, 0)


def test_equal_prompts_are_one_group() -> None:
    assert group_of_prompt([1, 23]) == group_of_prompt([1, 23]) != group_of_prompt([12, 3])


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert version_reasons("0.9.1", "0.5.12") == version_reasons("0.9.1", None) == []
    (said,) = version_reasons("0.8.0", "0.5.12")
    assert said.startswith("veRL 0.8.0 was not tested with Seer; tested: 0.9.1")
    (said,) = version_reasons("0.9.1", "0.5.9")
    assert said.startswith("SGLang 0.5.9 was not tested with veRL 0.9.1; tested: 0.5.12")
    monkeypatch.setenv("SGLANG_SEER_ALLOW_UNTESTED", "1")
    assert version_reasons("0.8.0", "0.5.9") == []


def test_settings_that_do_not_fit() -> None:
    good = {"name": "sglang", "router_config_path": "router.yaml"}
    assert config_reasons(good) == []
    bad = {"name": "vllm", "disaggregation": {"enabled": True}, "mtp": {"enable": True, "enable_rollout": True}}
    assert [reason.split(":")[0] for reason in config_reasons(bad)] == [
        "rollout.name",
        "rollout.router_config_path",
        "rollout.disaggregation.enabled",
        "rollout.mtp.enable_rollout",
    ]


def test_server_info_is_mended_only_where_it_is_broken() -> None:
    states = [{"memory_usage": {"token_capacity": 6144}}]
    assert mended(object(), states) == {"max_total_num_tokens": 6144}
    assert mended({"max_total_num_tokens": 7}, states) == {"max_total_num_tokens": 7}


def test_how_seer_runs_on_a_server() -> None:
    status = {"mode": "on", "parts": ["scheduling", "speculation"]}
    assert seer_of({"internal_states": [{"sglang_seer": status}]}) == "on: scheduling, speculation"
    assert seer_of({"internal_states": [{"sglang_seer": {"mode": "off", "parts": []}}]}) == OFF
    assert seer_of({"internal_states": [{}]}) == seer_of({}) == OFF
