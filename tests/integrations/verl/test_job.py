"""veRL's own agent loops with Seer's router and client give the samples of veRL's own path, from real engines."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from sglang_seer.rollout import RolloutConfig
from tests.integrations.verl.conftest import JOB_TIMEOUT_S, STOPS
from tests.rollout.conftest import START_TIMEOUT_S
from tests.rollout.real_engines import folder_of_example

# The first test waits for the job.
pytestmark = pytest.mark.timeout(START_TIMEOUT_S + JOB_TIMEOUT_S + 60.0)

Job = dict[str, Any]
CHUNK_TOKENS = 16
CASES = (
    *("plain", "stop strings", "characters", "limit at a seam", "penalty", "tool"),
    *("abort", "weights 1", "weights 2", "kill"),
)


def test_nothing_failed(job: Job) -> None:
    assert job["errors"] == {}


@pytest.mark.parametrize("case", CASES)
def test_every_sample_is_veRLs_own(job: Job, case: str) -> None:
    wanted, got = job[case]["wanted"], job[case]["got"]
    assert len(wanted) == len(got) > 0
    for theirs, ours in zip(wanted, got, strict=True):
        assert ours["tokens"] == theirs["tokens"]
        assert ours["mask"] == theirs["mask"]
        assert max(abs(a - b) for a, b in zip(ours["logprobs"], theirs["logprobs"], strict=True)) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_as_many_logprobs_as_tokens(job: Job, case: str) -> None:
    for sample in job[case]["got"]:
        tokens, logprobs = sample["counts"]
        assert tokens == logprobs == len(sample["tokens"]) > 0
        # Of what the model said, each is a real one.
        said = [value for value, mine in zip(sample["logprobs"], sample["mask"], strict=True) if mine]
        assert all(value < 0 for value in said[:CHUNK_TOKENS])


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_behind(job: Job, case: str) -> None:
    assert (job[case]["after"]["waiting"], job[case]["after"]["running"]) == (0, 0)


def test_siblings_differ_also_with_one_prompt_in_two_groups(job: Job) -> None:
    samples = [tuple(sample["tokens"]) for sample in job["plain"]["got"]]
    assert len(set(samples)) == len(samples)
    # Groups 0 and 2 have the same prompt.
    assert len(samples) == 12


def test_chunks_were_used(job: Job) -> None:
    """Negative control of the equality: without chunks there would be one a sample."""
    chunks = job["plain"]["after"]["chunks"] - job["plain"]["before"]["chunks"]
    tokens = sum(len(sample["tokens"]) for sample in job["plain"]["got"])
    assert chunks >= tokens / CHUNK_TOKENS > 2 * len(job["plain"]["got"])


def test_stop_strings_end_responses(job: Job) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder_of_example() / "model")
    texts = [tokenizer.decode(sample["tokens"]) for sample in job["stop strings"]["got"]]
    assert sum(any(stop in text for stop in STOPS) for text in texts) > len(texts) / 2


def test_characters_straddle_seams(job: Job) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder_of_example() / "model")
    straddling = 0
    for sample in job["characters"]["got"]:
        for seam in range(CHUNK_TOKENS, len(sample["tokens"]), CHUNK_TOKENS):
            whole = tokenizer.decode(sample["tokens"])
            parts = [tokenizer.decode(part) for part in (sample["tokens"][:seam], sample["tokens"][seam:])]
            straddling += "".join(parts) != whole
    assert straddling > 0


def test_the_limit_at_a_seam(job: Job) -> None:
    case = job["limit at a seam"]
    assert {len(sample["tokens"]) for sample in case["got"]} == {3 * CHUNK_TOKENS}
    assert case["after"]["chunks"] - case["before"]["chunks"] == 3 * len(case["got"])


def test_no_chunk_was_asked_for_more(job: Job) -> None:
    """Whole requests, which are those with a penalty, are the only ones above a chunk."""
    asked = [limit for limits in job["limits"] for limit in limits]
    assert {limit for limit in asked if limit > CHUNK_TOKENS} == {40}
    assert job["penalty"]["after"]["whole"] == {"frequency_penalty: depends on the whole output": 8}


def test_a_tool_turn(job: Job) -> None:
    for sample in job["tool"]["got"]:
        turns = [mine for mine, other in pairwise([0, *sample["mask"]]) if (mine, other) == (0, 1)]
        assert len(turns) == 2 and 0 in sample["mask"]


def test_an_abort_in_mid_rollout_broke_chunks(job: Job) -> None:
    case = job["abort"]
    chunks = case["after"]["chunks"] - case["before"]["chunks"]
    # An abort leaves a part of a chunk, and another chunk for the rest.
    assert chunks > sum(len(sample["tokens"]) for sample in case["got"]) / CHUNK_TOKENS
    assert case["after"]["engines_lost"] == 0


def test_an_update_of_weights_clears_what_was_learnt(job: Job) -> None:
    first, second = job["weights 1"], job["weights 2"]
    assert (first["after"]["weight_version"], second["after"]["weight_version"]) == ("1", "2")
    assert second["after"]["weight_updates"] == first["after"]["weight_updates"] + 1
    assert {tuple(sample["steps"]) for sample in second["got"]} == {(2, 2)}


def test_a_killed_engine(job: Job) -> None:
    case = job["kill"]
    assert case["after"]["engines_lost"] >= 1
    assert len(case["before"]["up"]) == 2 and case["after"]["broken"]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no router", "rollout.router_config_path: got none, wanted a YAML file with router_class: sglang_seer"),
        ("another router", "the router of this job is not Seer's: wanted rollout.router_config_path"),
        ("router file", "router file: unknown key 'chunk_tokens'; known are router_class, seer"),
        ("mixed", "Seer must run alike on all engines; saw"),
    ],
)
def test_a_job_that_cannot_run_says_why(job: Job, case: str, said: str) -> None:
    assert said in job[case]


def test_the_recipe_is_complete(job: Job) -> None:
    rollout = job["recipe"]
    assert rollout["name"] == "sglang"
    assert rollout["engine_kwargs"]["sglang"] == {"speculative_algorithm": "SEER"}
    assert rollout["agent"]["agent_loop_manager_class"].endswith(".SeerAgentLoopManagerTQ")
    router = yaml.safe_load(Path(rollout["router_config_path"]).read_text())
    assert RolloutConfig.of(router["seer"]).chunk_tokens == 2048
