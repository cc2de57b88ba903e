"""Proposals against the naive index, and what holds for every tree."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_seer.draft import Proposal, SuffixIndex
from sglang_seer.draft.index import MAX_BUDGET
from tests.draft.naive_index import NaiveGroup, NaiveIndex, Node, breadth_first, common_suffix

VOCAB_SIZE = 50
GROUP = 7

# Few token ids make long and many matches; more make none.
texts = st.integers(1, 5).flatmap(lambda n: st.lists(st.integers(0, n), max_size=40))


def build(prompt: list[int], responses: list[list[int]], max_match: int = 32) -> tuple[SuffixIndex, NaiveIndex]:
    # More candidates than any text here has tokens: the naive index looks at all of them.
    index = SuffixIndex(vocab_size=VOCAB_SIZE, max_match=max_match, max_candidates=4096)
    naive = NaiveIndex(max_match, {GROUP: NaiveGroup(list(prompt))})
    index.open_group(GROUP, prompt)
    count = len(responses)
    index.append(
        np.full(count, GROUP),
        np.arange(count),
        np.zeros(count, np.int64),
        [token for response in responses for token in response],
        [len(response) for response in responses],
    )
    for sequence, response in enumerate(responses):
        naive.append(GROUP, sequence, 0, response)
    return index, naive


def trees(proposal: Proposal) -> list[list[Node]]:
    columns = (proposal.tokens, proposal.parents, proposal.depths, proposal.probabilities)
    nodes = [Node(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    starts = proposal.starts.tolist()
    return [nodes[a:b] for a, b in itertools.pairwise(starts)]


def path(tree: list[Node], node: int) -> list[int]:
    tokens: list[int] = []
    while node >= 0:
        tokens.insert(0, tree[node].token)
        node = tree[node].parent
    return tokens


def paths(tree: list[Node]) -> set[tuple[int, ...]]:
    return {tuple(path(tree, node)) for node in range(len(tree))}


@settings(deadline=None, max_examples=150)
@given(
    prompt=texts,
    responses=st.lists(texts, min_size=1, max_size=5),
    max_match=st.integers(1, 40),
    budget=st.integers(0, 20),
    max_depth=st.integers(1, 10),
)
def test_equals_naive(
    prompt: list[int], responses: list[list[int]], max_match: int, budget: int, max_depth: int
) -> None:
    index, naive = build(prompt, responses, max_match)
    count = len(responses) + 1  # one sequence without a response
    proposal = index.propose([GROUP] * count, range(count), [budget] * count, max_depth)
    for sequence, tree in enumerate(trees(proposal)):
        wanted = breadth_first(naive.tree(GROUP, sequence, budget, max_depth))
        assert tree == wanted


@pytest.mark.parametrize("kinds", [2, 12])
def test_equals_naive_across_blocks(kinds: int) -> None:
    random = np.random.default_rng(kinds)
    # Lengths around the 128 tokens of a block, and texts that continue from one into the next.
    prompt = random.integers(0, kinds, 127).tolist()
    responses = [random.integers(0, kinds, n).tolist() for n in (1, 128, 129, 300)]
    responses[3][100:200] = responses[2][20:120]
    responses[0] = responses[3][90:190]
    index, naive = build(prompt, responses)
    tree_list = trees(index.propose([GROUP] * 4, range(4), [24] * 4))
    for sequence, tree in enumerate(tree_list):
        wanted = breadth_first(naive.tree(GROUP, sequence, 24, 16))
        assert tree == wanted


@settings(deadline=None)
@given(
    prompt=texts,
    responses=st.lists(texts, min_size=1, max_size=6),
    budget=st.integers(0, MAX_BUDGET),
    max_depth=st.integers(1, 20),
    max_candidates=st.integers(1, 8),
    chain=st.booleans(),
)
def test_properties(
    prompt: list[int],
    responses: list[list[int]],
    budget: int,
    max_depth: int,
    max_candidates: int,
    chain: bool,
) -> None:
    index = SuffixIndex(vocab_size=VOCAB_SIZE, max_candidates=max_candidates)
    index.open_group(GROUP, prompt)
    for sequence, response in enumerate(responses):
        index.append([GROUP], [sequence], [0], response, [len(response)])
    count = len(responses)
    proposal = index.propose([GROUP] * count, range(count), [budget] * count, max_depth, chain=chain)
    stored = [prompt, *([*prompt, *response] for response in responses)]
    for tree, response in zip(trees(proposal), responses, strict=True):
        assert len(tree) <= budget
        assert len(paths(tree)) == len(tree)  # siblings differ
        for place, node in enumerate(tree):
            assert -1 <= node.parent < place
            parent = tree[node.parent] if node.parent >= 0 else Node(-1, -1, 0, 1.0)
            assert node.depth == parent.depth + 1 <= max_depth
            assert 0.0 < node.probability <= parent.probability
        assert [node.depth for node in tree] == sorted(node.depth for node in tree)
        assert [node.parent for node in tree] == sorted(node.parent for node in tree)
        if chain:
            assert [node.parent for node in tree] == list(range(-1, len(tree) - 1))
        for parent_place in range(-1, len(tree)):
            children = [node for node in tree if node.parent == parent_place]
            reach = tree[parent_place].probability if parent_place >= 0 else 1.0
            assert sum(node.probability for node in children) <= reach * (1 + 1e-6)
            assert children == sorted(children, key=lambda n: (-n.probability, n.token))
        # Every drafted token is one that followed the token before it somewhere in the group.
        text = [*prompt, *response]
        bigrams = {pair for one in stored for pair in itertools.pairwise(one)}
        for place, node in enumerate(tree):
            assert tuple([text[-1], *path(tree, place)][-2:]) in bigrams, node


@settings(deadline=None)
@given(prompt=texts, responses=st.lists(texts, min_size=1, max_size=5), chain=st.booleans())
def test_a_smaller_budget_is_contained(prompt: list[int], responses: list[list[int]], chain: bool) -> None:
    index, _ = build(prompt, responses)
    budgets = list(range(MAX_BUDGET + 1))
    proposal = index.propose([GROUP] * len(budgets), [0] * len(budgets), budgets, chain=chain)
    nested = [paths(tree) for tree in trees(proposal)]
    assert all(a <= b for a, b in itertools.pairwise(nested))
    assert all(len(b) - len(a) <= 1 for a, b in itertools.pairwise(nested))


@settings(deadline=None)
@given(prompt=texts, shared=st.lists(st.integers(0, 49), min_size=12, max_size=12, unique=True))
def test_follows_a_verbatim_sibling(prompt: list[int], shared: list[int]) -> None:
    """A sibling that wrote the same words is drafted as far as the depth allows."""
    index, _ = build(prompt, [shared, shared[:4]])
    (tree,) = trees(index.propose([GROUP], [1], [MAX_BUDGET], 8))
    assert tuple(shared[4:12]) in paths(tree)


def test_backs_off_inside_a_draft() -> None:
    """Where the longest match ends, the drafted tokens' own occurrences go on."""
    # The sibling that matches [1 2 3] ends after 4; only the other one knows what follows 4.
    index, _ = build([9], [[1, 2, 3, 4], [8, 4, 5, 6], [1, 2, 3]])
    (tree,) = trees(index.propose([GROUP], [2], [8]))
    assert (4, 5, 6) in paths(tree)


def test_enough_long_matches_leave_out_short_ones() -> None:
    """One match of four tokens is half of two candidates, so that of one token is not looked up."""
    seen = []
    for max_candidates in (2, 3):
        index = SuffixIndex(vocab_size=VOCAB_SIZE, max_candidates=max_candidates)
        index.open_group(GROUP, [9])
        index.append([GROUP] * 3, [0, 1, 2], [0] * 3, [1, 2, 3, 4, 5, 8, 4, 6, 1, 2, 3, 4], [5, 3, 4])
        (tree,) = trees(index.propose([GROUP], [2], [8], 1))
        seen.append([node.token for node in tree])
    assert seen == [[5], [5, 6]]


def test_the_open_end_is_no_occurrence() -> None:
    index, _ = build([1, 2, 3], [[4]])
    assert trees(index.propose([GROUP], [0], [8])) == [[]]


def test_the_prompt_leads_into_responses() -> None:
    """At the prompt's end siblings' first tokens are drafted, the more frequent one first."""
    index, _ = build([1, 2, 3], [[5, 6], [4, 7], [5, 8]])
    (tree,) = trees(index.propose([GROUP], [99], [2], 1))
    assert [node.token for node in tree] == [5, 4]


@given(texts, texts, st.integers(0, 50))
def test_common_suffix(a: list[int], b: list[int], limit: int) -> None:
    """The reference's own building block, by its definition."""
    length = common_suffix(a, b, limit)
    assert length <= limit and a[len(a) - length :] == b[len(b) - length :]
    longer = length + 1
    if longer <= min(len(a), len(b), limit):
        assert a[-longer:] != b[-longer:]
