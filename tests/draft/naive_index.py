"""The suffix index from its definition: plain lists, every occurrence looked at, no cap, no hashes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sglang_seer.draft import _index

F = np.float32
CLASS_FLOORS: list[int] = _index.CLASS_FLOORS
PRIOR_VOTES = [F(votes) for votes in _index.PRIOR_VOTES]


class Vote(NamedTuple):
    text: int  # index in the group's texts
    place: int  # of the token voted for
    matched: int


class Node(NamedTuple):
    token: int
    parent: int
    depth: int
    probability: float  # a float32's value


@dataclass
class NaiveGroup:
    prompt: list[int]
    responses: dict[int, list[int]] = field(default_factory=dict)

    def texts(self) -> list[tuple[list[int], int]]:
        """All texts, each with the place from which its tokens are its own."""
        own = [(self.prompt + response, len(self.prompt)) for response in self.responses.values()]
        return [(self.prompt, 0), *own]


def common_suffix(a: list[int], b: list[int], limit: int) -> int:
    length = 0
    while length < min(len(a), len(b), limit) and a[-1 - length] == b[-1 - length]:
        length += 1
    return length


@dataclass
class NaiveIndex:
    max_match: int = 32
    groups: dict[int, NaiveGroup] = field(default_factory=dict)

    def append(self, group: int, sequence: int, offset: int, tokens: list[int]) -> None:
        response = self.groups[group].responses.setdefault(sequence, [])
        assert offset <= len(response)
        response.extend(tokens[len(response) - offset :])

    def context(self, group: int, sequence: int) -> list[int]:
        known = self.groups[group]
        return (known.prompt + known.responses.get(sequence, []))[-self.max_match :]

    def occurrences(self, group: int, context: list[int]) -> list[Vote]:
        """Every stored token that follows a suffix of the context, with the longest such suffix."""
        votes = []
        for number, (text, first) in enumerate(self.groups[group].texts()):
            for place in range(first, len(text)):
                matched = common_suffix(text[:place], context, self.max_match)
                if matched > 0:
                    votes.append(Vote(number, place, matched))
        return votes

    def tree(self, group: int, sequence: int, budget: int, max_depth: int) -> list[Node]:
        """The nodes in the order taken; a parent is an index in this list."""
        texts = self.groups[group].texts()
        context = self.context(group, sequence)
        taken: list[tuple[Node, list[int], list[Vote]]] = []
        frontier: list[tuple[Node, list[int], list[Vote]]] = []

        def expand(parent: int) -> None:
            node, path, votes = taken[parent] if parent >= 0 else (Node(-1, -1, 0, 1.0), [], [])
            votes = votes or self.occurrences(group, context + path)
            for token in {texts[v.text][0][v.place] for v in votes}:
                here = [v for v in votes if texts[v.text][0][v.place] == token]
                below = [
                    Vote(v.text, v.place + 1, min(v.matched + 1, self.max_match))
                    for v in here
                    if v.place + 1 < len(texts[v.text][0])
                ]
                probability = float(F(node.probability) * share(here, votes))
                child = Node(token, parent, node.depth + 1, probability)
                frontier.append((child, [*path, token], below))

        if budget > 0:
            expand(-1)
        while frontier and len(taken) < budget:
            frontier.sort(key=lambda e: (-e[0].probability, e[0].depth, e[0].parent, e[0].token))
            taken.append(frontier.pop(0))
            if taken[-1][0].depth < max_depth:
                expand(len(taken) - 1)
        return [node for node, _, _ in taken]


def share(here: list[Vote], votes: list[Vote]) -> np.float32:
    """Shares of the votes of matches of at least each floor, each the prior of the next one."""
    estimate = F(0)
    for floor, prior in zip(CLASS_FLOORS, PRIOR_VOTES, strict=True):
        all_votes = F(sum(v.matched >= floor for v in votes))
        if all_votes:
            own_votes = F(sum(v.matched >= floor for v in here))
            estimate = (own_votes + prior * estimate) / (all_votes + prior)
    return estimate


def breadth_first(nodes: list[Node]) -> list[Node]:
    """The same tree in the order of a proposal; parents are places in that order."""
    ordered: list[Node] = []
    level = [-1]
    places = {-1: -1}
    while level:
        below = []
        for parent in level:
            for number, node in enumerate(nodes):
                if node.parent == parent:
                    places[number] = len(ordered)
                    ordered.append(node._replace(parent=places[parent]))
                    below.append(number)
        level = below
    return ordered
