"""Proposals against the naive index, what holds for every tree, and that the comparison sees mistakes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_seer.draft import Proposal, SuffixIndex
from sglang_seer.draft.index import MAX_BUDGET
from tests.draft import naive_index
from tests.draft.naive_index import NaiveIndex, Vote, common_suffix
from tests.draft.tree_check import check_tree, paths, trees

VOCAB_SIZE = 50
GROUP = 7
ABSENT = 99  # a sequence without a response

# Few token ids make long and many matches; more make none.
texts = st.integers(1, 5).flatmap(lambda n: st.lists(st.integers(0, n), max_size=40))


class Pair:
    """An index and the naive one, written to alike."""

    def __init__(self, max_match: int = 32, max_candidates: int = 256) -> None:
        self.index = SuffixIndex(vocab_size=VOCAB_SIZE, max_match=max_match, max_candidates=max_candidates)
        self.naive = NaiveIndex(max_match, max_candidates)

    def open_group(self, group: int, prompt: list[int], memory: int | None = None) -> None:
        self.index.open_group(group, prompt, memory=memory)
        self.naive.open_group(group, prompt, 0, memory)

    def append(self, group: int, responses: list[list[int]]) -> None:
        count = len(responses)
        tokens = [token for response in responses for token in response]
        self.index.append([group] * count, range(count), [0] * count, tokens, [len(one) for one in responses])
        self.naive.append([(group, sequence, 0, response) for sequence, response in enumerate(responses)])

    def check(self, requests: list[tuple[int, int]], budget: int, max_depth: int = 16, chain: bool = False) -> None:
        groups, sequences = [group for group, _ in requests], [sequence for _, sequence in requests]
        proposal = self.index.propose(groups, sequences, [budget] * len(requests), max_depth, chain=chain)
        self.naive.begin_propose(groups)
        for (group, sequence), tree in zip(requests, trees(proposal), strict=True):
            check_tree(self.naive, group, sequence, budget, max_depth, chain, tree)
        # Most nodes are accepted whose token is even, so that ratios move.
        accepted = (proposal.tokens % 2 == 0).tolist()
        self.index.observe(proposal, accepted)
        self.naive.observe(proposal, accepted)


def single(prompt: list[int], responses: list[list[int]], max_match: int = 32, max_candidates: int = 256) -> Pair:
    pair = Pair(max_match, max_candidates)
    pair.open_group(GROUP, prompt)
    pair.append(GROUP, responses)
    return pair


@settings(deadline=None, max_examples=150)
@given(
    prompt=texts,
    responses=st.lists(texts, min_size=1, max_size=4),
    max_match=st.integers(4, 40),
    max_candidates=st.integers(1, 256),
    budget=st.integers(0, MAX_BUDGET),
    max_depth=st.integers(1, 64),
    chain=st.booleans(),
)
def test_equals_naive(
    prompt: list[int],
    responses: list[list[int]],
    max_match: int,
    max_candidates: int,
    budget: int,
    max_depth: int,
    chain: bool,
) -> None:
    pair = single(prompt, responses, max_match, max_candidates)
    requests = [(GROUP, sequence) for sequence in range(len(responses) + 1)]
    pair.check(requests, budget, max_depth, chain)


@pytest.mark.parametrize("kinds", [2, 12])
def test_equals_naive_across_pages(kinds: int) -> None:
    """Lengths around the 128 tokens of a page, and texts that continue from one into the next."""
    random = np.random.default_rng(kinds)
    prompt = random.integers(0, kinds, 127).tolist()
    responses = [random.integers(0, kinds, length).tolist() for length in (1, 128, 129, 300)]
    responses[3][100:200] = responses[2][20:120]
    responses[0] = responses[3][90:190]
    single(prompt, responses).check([(GROUP, sequence) for sequence in range(5)], 24)


def populated(seed: int, max_candidates: int = 256) -> Pair:
    """Thirteen groups of few kinds of tokens, more groups than the shared table remembers of a suffix."""
    random = np.random.default_rng(seed)
    kinds = 3 if seed % 2 == 0 else 7

    def text(least: int) -> list[int]:
        tokens: list[int] = random.integers(0, kinds, random.integers(least, 24)).tolist()
        return tokens

    pair = Pair(int(random.integers(4, 33)), max_candidates)
    for group in range(13):
        pair.open_group(group, text(0), memory=group - 6 if group >= 6 else None)
        pair.append(group, [text(1) for _ in range(3)])
    pair.index.drop_sequence(12, 1)
    pair.naive.drop_sequence(12, 1)
    pair.index.drop_group(3)
    pair.naive.drop_group(3)
    pair.append(12, [pair.naive.groups[12].responses[0].tokens, text(4)])
    return pair


def check_populated(seed: int) -> None:
    for max_candidates in (4, 256):
        pair = populated(seed, max_candidates)
        requests = [(group, sequence) for group in (0, 6, 9, 12) for sequence in (0, 2, ABSENT)]
        for budget, chain in ((32, False), (MAX_BUDGET, False), (8, True)):
            pair.check(requests, budget, chain=chain)


@pytest.mark.parametrize("seed", range(4))
def test_equals_naive_over_groups(seed: int) -> None:
    check_populated(seed)


def without_memory(index: NaiveIndex, group: int, sequence: int) -> list[Vote]:
    known = index.groups[group]
    memory, known.memory = known.memory, group
    try:
        return ORIGINAL_VOTES(index, group, sequence)
    finally:
        known.memory = memory


def without_others(index: NaiveIndex, group: int, sequence: int) -> list[Vote]:
    return [vote for vote in ORIGINAL_VOTES(index, group, sequence) if vote.weight != naive_index.OTHER]


def one_vote_a_token(index: NaiveIndex, group: int, sequence: int) -> list[Vote]:
    return list({vote.following[0]: vote for vote in reversed(ORIGINAL_VOTES(index, group, sequence))}.values())


def plain_share(here: list[Vote], votes: list[Vote], depth: int) -> float:
    return sum(vote.weight for vote in here) / (sum(vote.weight for vote in votes) + naive_index.SIBLING)


def oldest_first(index: NaiveIndex, group: int, sequence: int) -> list[Vote]:
    known = index.groups[group]
    known.order.reverse()
    try:
        return ORIGINAL_VOTES(index, group, sequence)
    finally:
        known.order.reverse()


def learns_from_all(index: NaiveIndex, proposal: Proposal, accepted: list[bool]) -> None:
    ORIGINAL_OBSERVE(index, dataclasses.replace(proposal, parents=np.full_like(proposal.parents, -1)), accepted)


ORIGINAL_OBSERVE = NaiveIndex.observe
ORIGINAL_VOTES: Callable[[NaiveIndex, int, int], list[Vote]] = NaiveIndex.votes

MUTANTS: dict[str, tuple[object, str, object]] = {
    "own text weighs no more": (naive_index, "OWN", naive_index.SIBLING),
    "other groups weigh as much": (naive_index, "OTHER", naive_index.SIBLING),
    "no memory": (NaiveIndex, "votes", without_memory),
    "no other groups": (NaiveIndex, "votes", without_others),
    "one other group more": (naive_index, "MOST_OTHERS", 9),
    "one other group less": (naive_index, "MOST_OTHERS", 7),
    "a token votes once": (NaiveIndex, "votes", one_vote_a_token),
    "oldest occurrences first": (NaiveIndex, "votes", oldest_first),
    "shortest suffixes first": (naive_index, "ORDERS", (1, 2, 4)),
    "no single tokens": (naive_index, "ORDERS", (4, 2)),
    "shares without a hierarchy": (naive_index, "share_of", plain_share),
    "half the prior": (naive_index, "PRIOR_VOTES", [votes / 2 for votes in naive_index.PRIOR_VOTES]),
    "classes one token later": (naive_index, "CLASS_FLOORS", [1, *(n + 1 for n in naive_index.CLASS_FLOORS[1:])]),
    "ratios of the next cell": (naive_index, "PRIOR_RATIOS", [*naive_index.PRIOR_RATIOS[1:], 1.0]),
    "nothing learnt": (NaiveIndex, "observe", lambda *_: None),
    "learns from what lies below a rejected node": (NaiveIndex, "observe", learns_from_all),
    "cells learn more slowly": (naive_index, "CELL_PRIOR", 30),
    "tokens learn more slowly": (naive_index, "TOKEN_PRIOR", 6),
    "ratios without a limit": (naive_index, "MOST_RATIO", 100.0),
    "one successor less": (naive_index, "ASKED", 3),
    "one successor more": (naive_index, "ASKED", 5),
    "successors of all nodes with votes": (naive_index, "ASKED_FROM", np.float32(0)),
    "successors of all nodes without votes": (naive_index, "ASKED_ALONE_FROM", np.float32(0)),
    "successors of one token only": (naive_index, "SUCCESSOR_LENGTHS", (1,)),
    "successors of two tokens last": (naive_index, "SUCCESSOR_LENGTHS", (1, 2)),
    "successors count more": (naive_index, "SUCCESSOR_PRIORS", {1: 20, 2: 10}),
    "places of single tokens in other groups": (naive_index, "SHORTEST_OTHERS", 1),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_comparison_sees_mistakes(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    with pytest.raises(AssertionError):
        for seed in range(4):
            check_populated(seed)


@settings(deadline=None)
@given(
    prompt=texts,
    responses=st.lists(texts, min_size=1, max_size=5),
    chain=st.booleans(),
    max_candidates=st.integers(1, 256),
)
def test_a_smaller_budget_is_contained(
    prompt: list[int], responses: list[list[int]], chain: bool, max_candidates: int
) -> None:
    index = single(prompt, responses, max_candidates=max_candidates).index
    budgets = list(range(MAX_BUDGET + 1))
    proposal = index.propose([GROUP] * len(budgets), [0] * len(budgets), budgets, chain=chain)
    nested = [paths(tree) for tree in trees(proposal)]
    assert all(a <= b for a, b in itertools.pairwise(nested))
    assert all(len(b) - len(a) <= 1 for a, b in itertools.pairwise(nested))


@settings(deadline=None)
@given(prompt=texts, shared=st.lists(st.integers(0, 49), min_size=12, max_size=12, unique=True))
def test_follows_a_verbatim_sibling(prompt: list[int], shared: list[int]) -> None:
    """A sibling that wrote the same words is drafted as far as the depth allows."""
    index = single(prompt, [shared, shared[:4]]).index
    (tree,) = trees(index.propose([GROUP], [1], [MAX_BUDGET], 8))
    assert tuple(shared[4:12]) in paths(tree)


def test_own_text_counts_more_than_siblings_and_they_more_than_others() -> None:
    """The same match, each time followed by another token, the least probable one by the smallest."""
    index = SuffixIndex(vocab_size=VOCAB_SIZE)
    index.open_group(1, [9])
    index.append([1], [0], [0], [5, 6, 1], [3])
    index.open_group(2, [9])
    index.append([2, 2], [0, 1], [0, 0], [5, 6, 2, 5, 6, 3, 5, 6], [3, 5])
    (tree,) = trees(index.propose([2], [1], [3], 1))
    assert [node.token for node in tree] == [3, 2, 1]
    assert tree[0].probability > tree[1].probability > tree[2].probability > 0


def test_memory_serves_as_long_as_it_is_open() -> None:
    index = SuffixIndex(vocab_size=VOCAB_SIZE, shared_bytes=0)
    index.open_group(1, [1, 2, 3])
    index.append([1], [0], [0], [4, 5], [2])
    index.open_group(2, [1, 2, 3], memory=1)
    assert index.propose([2], [0], [2]).tokens.tolist() == [4, 5]
    index.drop_group(1)
    assert index.propose([2], [0], [2]).tokens.tolist() == []


def test_memory_that_expires_in_the_very_call() -> None:
    """Time to live ends between looking the memory up and reading it."""
    index = SuffixIndex(vocab_size=VOCAB_SIZE, shared_bytes=0, ttl_steps=2)
    index.open_group(1, [1, 2, 3])
    index.append([1], [0], [0], [4, 5], [2])
    index.open_group(2, [1, 2, 3], memory=1)
    drafted = [index.propose([2], [0], [2]).tokens.tolist() for _ in range(4)]
    assert drafted == [[4, 5], [4, 5], [], []]


def test_backs_off_inside_a_draft() -> None:
    """Shorter matches go on where the longest one ends."""
    index = single([9], [[1, 2, 3, 4], [8, 3, 4, 5, 6], [1, 2, 3]]).index
    (tree,) = trees(index.propose([GROUP], [2], [8]))
    assert (4, 5, 6) in paths(tree)


def test_enough_long_matches_leave_out_short_ones() -> None:
    """One match of four tokens is half of two candidates, so that of one token is not looked up."""
    seen = []
    for max_candidates in (2, 3):
        index = SuffixIndex(vocab_size=VOCAB_SIZE, max_candidates=max_candidates, shared_bytes=0)
        index.open_group(GROUP, [9])
        index.append([GROUP] * 3, [0, 1, 2], [0] * 3, [1, 2, 3, 4, 5, 8, 4, 6, 1, 2, 3, 4], [5, 3, 4])
        (tree,) = trees(index.propose([GROUP], [2], [8], 1))
        seen.append([node.token for node in tree])
    assert seen == [[5], [5, 6]]


def test_the_open_end_is_no_occurrence() -> None:
    assert single([1, 2, 3], [[4]]).index.propose([GROUP], [0], [8]).tokens.size == 0


def test_the_prompt_leads_into_responses() -> None:
    """At the prompt's end siblings' first tokens are drafted, the more frequent one first."""
    index = single([1, 2, 3], [[5, 6], [4, 7], [5, 8]]).index
    (tree,) = trees(index.propose([GROUP], [ABSENT], [2], 1))
    assert [node.token for node in tree] == [5, 4]


@given(texts, texts)
def test_common_suffix(a: list[int], b: list[int]) -> None:
    """The reference's own building block, by its definition."""
    length = common_suffix(a, b)
    assert a[len(a) - length :] == b[len(b) - length :]
    longer = length + 1
    if longer <= min(len(a), len(b)):
        assert a[-longer:] != b[-longer:]
