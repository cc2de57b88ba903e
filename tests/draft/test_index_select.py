"""A part of a proposal against its definition, node by node."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_seer.draft import Proposal, SuffixIndex
from tests.draft.tree_check import Node, trees

texts = st.lists(st.lists(st.integers(0, 2), max_size=20), min_size=1, max_size=4)


def proposed(responses: list[list[int]], budgets: list[int]) -> Proposal:
    index = SuffixIndex(vocab_size=3)
    index.open_group(0, [0, 1])
    for sequence, response in enumerate(responses):
        index.append([0], [sequence], [0], response, [len(response)])
    count = len(budgets)
    return index.propose([0] * count, np.arange(count) % len(responses), budgets)


def without(tree: list[Node], kept: list[bool]) -> list[Node]:
    places = {-1: -1}
    left: list[Node] = []
    for place, node in enumerate(tree):
        if kept[place]:
            places[place] = len(left)
            left.append(node._replace(parent=places[node.parent]))
    return left


@settings(deadline=None)
@given(data=st.data(), responses=texts, budgets=st.lists(st.integers(0, 12), max_size=4))
def test_select(data: st.DataObject, responses: list[list[int]], budgets: list[int]) -> None:
    proposal = proposed(responses, budgets)
    wanted, kept = [], []
    for tree in trees(proposal):
        here: list[bool] = []
        for node in tree:
            here.append((node.parent < 0 or here[node.parent]) and data.draw(st.booleans()))
        wanted.append(without(tree, here))
        kept += here
    selected = proposal.select(np.array(kept, dtype=bool))
    assert trees(selected) == wanted
    for name in ("tokens", "parents", "probabilities", "depths", "evidence", "starts"):
        assert getattr(selected, name).dtype == getattr(proposal, name).dtype


def test_what_is_left_can_be_observed() -> None:
    index = SuffixIndex(vocab_size=3)
    index.open_group(0, [0, 1, 2, 0, 1, 2, 0, 1])
    proposal = index.propose([0, 0], [0, 1], [6, 6])
    selected = proposal.select(proposal.depths <= 2)
    assert 0 < selected.tokens.size < proposal.tokens.size
    index.observe(selected, np.zeros(selected.tokens.size, bool))
    assert (index.propose([0], [0], [2]).probabilities < proposal.probabilities[:2]).all()


def test_refusals() -> None:
    proposal = proposed([[0, 1, 2, 0, 1, 2, 0, 1]], [6, 6])
    kept = np.ones(proposal.tokens.size, bool)
    assert trees(proposal.select(kept)) == trees(proposal)
    kept[proposal.starts[1]] = False  # the only child of the second root
    with pytest.raises(ValueError, match="parent"):
        proposal.select(kept)
    with pytest.raises(ValueError, match="kept has shape"):
        proposal.select(kept[:-1])
    with pytest.raises(ValueError, match="kept has shape"):
        replace(proposal, tokens=proposal.tokens[:0]).select(kept)
