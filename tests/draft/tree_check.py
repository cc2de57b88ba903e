"""Whether a proposed tree is the one that the naive index asks for.

The index sums shares as integers and multiplies in float32, the naive index in float64. So nodes are compared one by
one, with room for the last bits of a share; between nodes that are further apart, only one tree passes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import NamedTuple

import numpy as np

from sglang_seer.draft import Proposal
from tests.draft import naive_index
from tests.draft.naive_index import SHARE_ONE, VOTE_CLASSES, Evidence, NaiveIndex, Vote, bucket, class_of, share_class

# Of a share: float32 products, and a truncated step of 2^-26 for each weighted vote.
SHARE_ERROR = 1e-6
STEP = 2.0**-26
# Of a probability, relative: float32 products along a path of 64 nodes.
PATH_ERROR = 1e-5
SHARE_CLASSES = len(naive_index.SHARE_FLOORS) + 1


class Node(NamedTuple):
    token: int
    parent: int
    depth: int
    probability: float
    evidence: int


class Child(NamedTuple):
    """A node as the naive index sees it; probabilities for an accepted parent."""

    votes: list[Vote]  # that go on below it
    profile: tuple[object, ...]  # children of equal profile have equal probability
    evidence: set[Evidence]  # that rounding may lead to
    lowest: float
    highest: float


class Successor(NamedTuple):
    """What is known of a token from its having followed the last one or two tokens anywhere."""

    share: float
    match_class: int
    vote_class: int


def trees(proposal: Proposal) -> list[list[Node]]:
    columns = (proposal.tokens, proposal.parents, proposal.depths, proposal.probabilities, proposal.evidence)
    nodes = [Node(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    return [nodes[a:b] for a, b in itertools.pairwise(proposal.starts.tolist())]


def path(tree: list[Node], node: int) -> tuple[int, ...]:
    tokens: tuple[int, ...] = ()
    while node >= 0:
        tokens = (tree[node].token, *tokens)
        node = tree[node].parent
    return tokens


def paths(tree: list[Node]) -> set[tuple[int, ...]]:
    return {path(tree, node) for node in range(len(tree))}


def successors(index: NaiveIndex, before: list[int], left: float) -> dict[int, Successor]:
    """By token. left: the share that the classes below the shortest match have in the estimate."""
    found: dict[int, Successor] = {}
    for length in naive_index.SUCCESSOR_LENGTHS:
        line = index.successors.get(tuple(before[-length:]), []) if length <= len(before) else []
        if line:
            prior = naive_index.SUCCESSOR_PRIORS[length]
            total = sum(times for _, times in line)
            for token, times in line[: naive_index.ASKED]:
                share = left * times / (total + prior)
                if token in found:
                    found[token] = found[token]._replace(share=found[token].share + share)
                else:
                    kind = len(naive_index.CLASS_FLOORS) + length - 1
                    found[token] = Successor(share, kind, (times >= 4) + (times >= 16))
            left *= prior / (total + prior)
    return found


def children(
    index: NaiveIndex, votes: list[Vote], before: list[int], depth: int, reach: float, chain: bool
) -> dict[int, Child]:
    """By token: what may follow a node of this depth and probability, whose votes these are.

    before: the last tokens up to the node.
    """
    votes = [vote for vote in votes if len(vote.following) > depth]
    if votes:
        asked = not chain and np.float32(reach) >= naive_index.ASKED_FROM
    else:
        asked = np.float32(reach) >= naive_index.ASKED_ALONE_FROM
    known = successors(index, before, naive_index.share_left(votes, depth)) if asked else {}
    found = {}
    for token in {vote.following[depth] for vote in votes} | set(known):
        here = [vote for vote in votes if vote.following[depth] == token]
        share = naive_index.share_of(here, votes, depth)
        if here:
            match_class = class_of(max(vote.matched for vote in here) + depth)
            vote_class = min(len(here), VOTE_CLASSES) - 1
        else:
            _, match_class, vote_class = known[token]
        share += known[token].share if token in known else 0.0
        error = SHARE_ERROR + STEP * sum(vote.weight for vote in here)
        bounds = [max(share - error, 0.0), min(share + error, 1.0)]
        cells = {(match_class * VOTE_CLASSES + vote_class) * SHARE_CLASSES + share_class(bound) for bound in bounds}
        shares = range(int(bounds[0] * SHARE_ONE), int(bounds[1] * SHARE_ONE) + 1)
        buckets = (bucket(token), bucket(before[-1]))
        evidence = {Evidence(cell, kept, *buckets) for cell in cells for kept in shares}
        probabilities = [index.probability(one) for one in evidence]
        profile = (
            sorted(Counter((class_of(vote.matched + depth), vote.weight) for vote in here).items()),
            known.get(token),
            index.ratio("token", buckets[0]).value,
        )
        found[token] = Child(here, profile, evidence, min(probabilities), max(probabilities))
    return found


def check_tree(
    index: NaiveIndex, group: int, sequence: int, budget: int, max_depth: int, chain: bool, tree: list[Node]
) -> None:
    """Fails unless the tree holds the most probable nodes, each with the right evidence, in the right order."""
    check_shape(tree, budget, max_depth, chain)
    if budget == 0:
        return
    context = index.context(group, sequence)
    if not context:
        assert not tree
        return
    known = {-1: children(index, index.votes(group, sequence), context, 0, 1.0, chain)}
    for place, node in enumerate(tree):
        assert node.token in known[node.parent], f"node {place}: nothing speaks for {node.token}"
        child = known[node.parent][node.token]
        evidence = Evidence.unpacked(node.evidence)
        assert evidence in child.evidence, f"node {place}: {evidence} is none of {child.evidence}"
        reach = tree[node.parent].probability if node.parent >= 0 else 1.0
        wanted = reach * index.probability(evidence)
        assert np.isclose(node.probability, wanted, rtol=PATH_ERROR, atol=1e-30), f"node {place}: wanted {wanted}"
        before = [*context, *path(tree, place)]
        below = node.depth < max_depth
        known[place] = children(index, child.votes, before, node.depth, node.probability, chain) if below else {}
    check_choice(known, budget, chain, tree)


def check_choice(known: dict[int, dict[int, Child]], budget: int, chain: bool, tree: list[Node]) -> None:
    """That no node left out is better than one taken. known: the children of each node of the tree, -1 is the root."""
    worst = min((node.probability for node in tree), default=0.0)
    for parent, options in known.items():
        reach = tree[parent].probability if parent >= 0 else 1.0
        taken = {node.token: node for node in tree if node.parent == parent}
        for token, child in options.items():
            if token in taken:
                continue
            lowest = reach * child.lowest * (1 - PATH_ERROR)
            if chain and taken:
                assert all(lowest <= node.probability for node in taken.values()), f"{token} is a better child"
            else:
                assert len(tree) == budget, f"{token} is left out of a tree of {len(tree)} nodes"
                assert lowest <= worst, f"{token} below {parent} is better than the worst node"
            for other in taken:
                assert other < token or options[other].profile != child.profile, f"{token} goes before {other}"


def check_shape(tree: list[Node], budget: int, max_depth: int, chain: bool) -> None:
    """What holds for every tree, whatever it was made from."""
    assert len(tree) <= budget
    assert len(paths(tree)) == len(tree), "siblings have the same token"
    for place, node in enumerate(tree):
        assert -1 <= node.parent < place
        above = tree[node.parent] if node.parent >= 0 else Node(-1, -1, 0, 1.0, 0)
        assert node.depth == above.depth + 1 <= max_depth
        assert 0.0 <= node.probability <= above.probability
        assert 0 <= node.evidence >> 48 < len(naive_index.PRIOR_RATIOS)
    wanted = sorted(tree, key=lambda node: (node.depth, node.parent, -node.probability, node.token))
    assert tree == wanted, "not breadth first"
    if chain:
        assert [node.parent for node in tree] == list(range(-1, len(tree) - 1))
