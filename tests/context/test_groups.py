"""Identity of requests."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sglang_seer.context import identify, request_key

PROMPT = [3, 1, 4, 1, 5]


def test_same_prompt_is_one_group_and_another_prompt_another() -> None:
    first, second = identify(None, PROMPT, 10), identify({"other": 1}, list(PROMPT), 99)
    assert first is not None and second is not None
    assert first.group == second.group
    assert (first.limit_tokens, second.limit_tokens) == (10, 99)
    other = identify(None, [*PROMPT, 9], 10)
    assert other is not None and other.group != first.group


def test_explicit_group_wins_and_never_meets_a_hash() -> None:
    hinted = identify({"seer": {"group": "p1", "sample": 3, "limit": 64}}, PROMPT, 10)
    assert hinted is not None
    assert (hinted.group, hinted.prompt_tokens, hinted.limit_tokens) == ("id:p1", 5, 64)
    plain = identify(None, PROMPT, 10)
    assert plain is not None
    disguised = identify({"seer": {"group": plain.group}}, PROMPT, 10)
    assert disguised is not None and disguised.group != plain.group


def test_chunk_belongs_to_the_group_of_its_prompt() -> None:
    whole = identify(None, PROMPT, 100)
    chunk = identify({"seer": {"prompt_len": 5}}, [*PROMPT, 7, 7, 7], 97)
    assert whole is not None and chunk is not None
    assert chunk.group == whole.group
    assert chunk.limit_tokens == 100


@pytest.mark.parametrize("limit", [None, 0])
def test_requests_that_generate_nothing_belong_to_no_group(limit: int | None) -> None:
    assert identify({"seer": {"group": 1}}, PROMPT, limit) is None


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        ("p1", "wanted a mapping, got str"),
        ({"grup": 1}, "unknown key 'grup'"),
        ({"group": 1.5}, r"\['group'\]: got 1.5"),
        ({"sample": True}, r"\['sample'\]: got True"),
        ({"prompt_len": 6}, "got 6, wanted 1 to 5"),
        ({"prompt_len": 0}, "got 0, wanted 1 to 5"),
        ({"limit": 0}, "got 0, wanted a positive"),
    ],
)
def test_malformed_hints_say_what_was_seen(hint: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        identify({"seer": hint}, PROMPT, 10)


def test_keys_are_the_same_in_another_process() -> None:
    code = "from sglang_seer.context import request_key; print(request_key('group/7'))"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout
    assert int(seen) == request_key("group/7")
