"""When NGRAM is taken over, and what is told of it; `test_older_lines.py` does it with real engines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_seer.config import SeerConfig
from sglang_seer.patches import lines
from sglang_seer.patches.adapter import line

CONFIG = "SGLANG_SEER_CONFIG"
ON = {"SGLANG_SEER": "on"}


def record(**arguments: Any) -> SimpleNamespace:
    """Server arguments of a launcher that built them early, as far as they are looked at."""
    return SimpleNamespace(
        **{
            "speculative_algorithm": "NGRAM",
            "schedule_policy": "fcfs",
            "max_running_requests": 48,
            "speculative_num_draft_tokens": 12,
            "pp_size": 1,
            "enable_dp_attention": False,
            "disaggregation_mode": "null",
            "enable_two_batch_overlap": False,
            "enable_return_hidden_states": False,
            "enable_lora": False,
            "rl_on_policy_target": None,
            "attention_backend": "fa3",
            "prefill_attention_backend": None,
            "decode_attention_backend": None,
            "enable_mixed_chunk": True,
            **arguments,
        }
    )


def take_over(monkeypatch: pytest.MonkeyPatch, server_args: SimpleNamespace, environment: dict[str, str]) -> None:
    from sglang_seer.engine import algorithm
    from sglang_seer.engine.takeover import take_over_ngram

    algorithm.register()
    for name in ("SGLANG_SEER", CONFIG):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    take_over_ngram(server_args)


def test_what_ngram_left_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = record()
    take_over(monkeypatch, made, {**ON, CONFIG: '{"draft_nodes": 5}'})
    assert (made.speculative_algorithm, made.schedule_policy) == ("SEER", "seer")
    assert (made.max_running_requests, made.speculative_num_draft_tokens) == (None, 6)
    assert (made.speculative_num_steps, made.speculative_eagle_topk, made.enable_mixed_chunk) == (1, 1, False)
    assert made._seer_config == SeerConfig(draft_nodes=5)


def test_what_was_asked_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    made = record(max_running_requests=256, speculative_num_draft_tokens=9)
    take_over(monkeypatch, made, ON)
    assert (made.max_running_requests, made.speculative_num_draft_tokens) == (256, 9)


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ({}, {}),
        ({}, {"SGLANG_SEER": "off"}),
        ({}, {"SGLANG_SEER": "observe"}),
        ({}, {**ON, CONFIG: '{"speculation": false}'}),
        ({"speculative_algorithm": "EAGLE"}, ON),
        ({"speculative_algorithm": None}, ON),
        ({"_seer_config": SeerConfig()}, ON),
    ],
)
def test_otherwise_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], environment: dict[str, str]
) -> None:
    made = record(**arguments)
    take_over(monkeypatch, made, environment)
    assert made == record(**arguments)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"enable_lora": True}, r"LoRA .*\"speculation\": false"),
        ({"schedule_policy": "lpm"}, "'lpm' contradict"),
        ({"speculative_num_draft_tokens": 65}, "got 65, wanted 2 to 64"),
    ],
)
def test_a_refusal_is_told_before_weights_are_read(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=f"sglang-seer refuses to start: .*{reason}"):
        take_over(monkeypatch, record(**arguments), ON)


def test_the_hint_is_that_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang_seer.engine.takeover import hint

    for takes, name in ((True, "NGRAM"), (False, "SEER")):
        monkeypatch.setattr(line, "TAKES_OVER_NGRAM", takes)
        assert hint() == f'speculative_algorithm="{name}"'


def test_the_line_that_slime_pins_has_the_hook() -> None:
    hooks = {version: [patch.hook for patch in one.patches] for version, one in lines.SUPPORTED.items()}
    assert [version for version, found in hooks.items() if "takeover:take_over_ngram" in found] == ["0.5.15.post1"]
