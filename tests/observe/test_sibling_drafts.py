"""Replays against drafts of finished siblings."""

from __future__ import annotations

import numpy as np
import pytest

from sglang_seer.observe.record import Steps
from sglang_seer.observe.sibling_drafts import MOST_SIBLINGS, SiblingDrafts
from sglang_seer.sim.acceptance import PAPER_LONGEST_DRAFT

VOCABULARY = 5000
PROMPT = [1, 2, 3]


def text(seed: int, tokens: int = 200) -> list[int]:
    """Without any pattern: its own past says nothing about it."""
    return np.random.default_rng(seed).permutation(VOCABULARY)[:tokens].tolist()


def drained(drafts: SiblingDrafts) -> list[Steps]:
    while not drafts.idle:
        drafts.work(1.0)
    return drafts.counts()


def test_a_sibling_that_said_the_same_is_all_that_is_needed() -> None:
    drafts = SiblingDrafts(VOCABULARY)
    for _ in range(2):
        drafts.add(0, PROMPT, text(1))
    alone, beside = drained(drafts)
    # The first token comes with the prefill.
    assert alone == Steps(199, 199)
    assert beside.tokens == 199
    assert beside.steps <= 199 // (PAPER_LONGEST_DRAFT + 1) + 2


def test_other_text_and_other_groups_are_of_no_use() -> None:
    """Negative control of the test above."""
    drafts = SiblingDrafts(VOCABULARY)
    drafts.add(0, PROMPT, text(1))
    drafts.add(0, PROMPT, text(2))
    drafts.add(1, PROMPT, text(3))
    alone, beside = drained(drafts)
    assert alone == Steps(2 * 199, 2 * 199)
    assert beside.tokens == 199 and beside.steps > 180


def test_only_what_was_sampled_is_accepted() -> None:
    """Siblings that agree half of the way: drafts of the other half are wrong, and cost steps."""
    drafts = SiblingDrafts(VOCABULARY)
    ours, theirs = text(1), text(2)
    drafts.add(0, PROMPT, theirs)
    drafts.add(0, PROMPT, theirs[:100] + ours[100:])
    _, beside = drained(drafts)
    assert beside.tokens == 199
    assert 90 < beside.steps < 130


def test_work_goes_on_where_it_stopped() -> None:
    whole, sliced = SiblingDrafts(VOCABULARY), SiblingDrafts(VOCABULARY)
    for drafts in (whole, sliced):
        for seed in (1, 1, 2):
            drafts.add(0, PROMPT, text(seed))
    now = iter(range(10_000))
    looks = 0
    while not sliced.idle:
        sliced.work(0.5, clock=lambda: float(next(now)))  # a step takes longer than it may
        looks += 1
    assert sliced.counts() == drained(whole)
    assert looks > 300


def test_what_is_taken_in_is_bounded() -> None:
    drafts = SiblingDrafts(VOCABULARY, most_tokens=500)
    for seed in range(3):
        drafts.add(0, PROMPT, text(seed))
    assert drafts.left_out == 1
    assert sum(one.steps for one in drained(drafts)) == 2 * 199
    # Another window takes in text again: its group of that number is another one.
    before = drafts.counts()[0]
    drafts.forget()
    drafts.add(0, PROMPT, text(0))
    assert drained(drafts)[0] == Steps(before.steps + 199, before.tokens + 199)


@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_responses(length: int) -> None:
    drafts = SiblingDrafts(VOCABULARY)
    drafts.add(0, PROMPT, text(1, length))
    assert drained(drafts) == [Steps(1, 1)] * (length - 1)


def test_many_siblings_count_as_the_most() -> None:
    drafts = SiblingDrafts(VOCABULARY)
    for _ in range(MOST_SIBLINGS + 3):
        drafts.add(0, PROMPT, text(1, 20))
    assert len(drained(drafts)) == MOST_SIBLINGS + 1


def test_tokens_that_are_none() -> None:
    """Image placeholders of multimodal prompts lie outside of the vocabulary."""
    drafts = SiblingDrafts(VOCABULARY)
    drafts.add(0, [VOCABULARY + 17, -1], text(1))
    assert drained(drafts)[0].tokens == 199
