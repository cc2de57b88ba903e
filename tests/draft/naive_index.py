"""The suffix index from its definition: plain lists, every suffix compared token by token, no hashes."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sglang_seer.draft import Proposal, _index

CLASS_FLOORS: list[int] = _index.CLASS_FLOORS
PRIOR_VOTES: list[float] = _index.PRIOR_VOTES
PRIOR_RATIOS: list[float] = _index.PRIOR_RATIOS
OWN, SIBLING, OTHER = _index.VOTE_WEIGHTS

# Lengths of the suffixes that are looked up, longest first.
ORDERS = (4, 2, 1)
# Of the other groups that wrote a suffix of at least two tokens, the newest ones are known.
MOST_OTHERS = 8
SHORTEST_OTHERS = 2
# Of what followed one and two tokens in any group, the most frequent tokens are counted, and some of them asked for.
SUCCESSOR_LENGTHS = (2, 1)
SUCCESSOR_PRIORS = {1: 40, 2: 20}
MOST_SUCCESSORS = 14
MOST_TIMES = 1024
ASKED = 4
ASKED_FROM = np.float32(0.1)
ASKED_ALONE_FROM = np.float32(0.03)
# Tokens in a page. Only what a reused slot finds at a stale place depends on it.
PAGE = 128
# A share of the votes as it is kept for learning: sixteen bits.
SHARE_ONE = 0xFFFF
SHARE_FLOORS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SHARE_STEPS = 256
VOTE_CLASSES = 3
CELL_PRIOR, TOKEN_PRIOR = 20, 10
MOST_EXPECTED = 4096 * SHARE_ONE
MOST_RATIO = 4.0
MOST_CERTAIN = 0.995

Place = tuple[int, int]  # page, place in it


@dataclass(eq=False)
class Text:
    tokens: list[int] = field(default_factory=list)
    dropped: bool = False


class Vote(NamedTuple):
    following: list[int]  # what came after the match, in the text of the match
    matched: int
    weight: int


@dataclass(eq=False)
class NaiveGroup:
    prompt: Text
    version: int
    memory: int
    slot: int
    last_step: int
    responses: dict[int, Text] = field(default_factory=dict)
    order: list[tuple[Text, int, Place]] = field(default_factory=list)
    """All tokens in the order in which they came: text, index in it, place in the group."""
    pages: list[tuple[Text, int]] = field(default_factory=list)
    """Text and index of the first token of each page."""

    def before(self, text: Text, index: int) -> list[int]:
        """The tokens before one, the prompt's included."""
        return text.tokens[:index] if text is self.prompt else self.prompt.tokens + text.tokens[:index]

    def take(self, text: Text, token: int) -> Place:
        if len(text.tokens) % PAGE == 0:
            self.pages.append((text, len(text.tokens)))
        page = max(n for n, (owner, _) in enumerate(self.pages) if owner is text)
        place = (page, len(text.tokens) % PAGE)
        self.order.append((text, len(text.tokens), place))
        text.tokens.append(token)
        return place

    def at(self, place: Place) -> tuple[Text, int] | None:
        """The text and index that are stored at a place, if any are."""
        page, offset = place
        if page >= len(self.pages):
            return None
        text, first = self.pages[page]
        return (text, first + offset) if first + offset < len(text.tokens) and not text.dropped else None

    def num_tokens(self) -> int:
        return len(self.prompt.tokens) + sum(len(text.tokens) for text in self.responses.values())


def common_suffix(a: list[int], b: list[int]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[-1 - length] == b[-1 - length]:
        length += 1
    return length


@dataclass
class Ratio:
    """Of accepted to expected nodes."""

    prior: float
    value: float
    expected: int = 0  # in 1 / SHARE_ONE
    accepted: int = 0

    def update(self, weight: float) -> None:
        ratio = (self.accepted + weight * self.prior) / (self.expected / SHARE_ONE + weight)
        self.value = float(np.float32(ratio))
        if self.expected > MOST_EXPECTED:
            self.expected //= 2
            self.accepted //= 2


class Evidence(NamedTuple):
    cell: int
    share: int
    token: int  # bucket of the node's token
    before: int  # of the token before it

    @classmethod
    def unpacked(cls, packed: int) -> Evidence:
        return cls(packed >> 48, packed >> 32 & 0xFFFF, packed >> 16 & 0xFFFF, packed & 0xFFFF)


def bucket(token: int) -> int:
    """Of 4096, by multiplicative hashing."""
    return token * 0x9E3779B1 % 2**32 >> 20


@dataclass
class NaiveIndex:
    max_match: int = 32
    max_candidates: int = 16
    ttl_steps: int = 0
    shared: bool = True

    def __post_init__(self) -> None:
        self.groups: dict[int, NaiveGroup] = {}  # least recently used first
        self.slots: list[NaiveGroup | None] = []
        self.free_slots: list[int] = []
        self.recent: dict[tuple[int, ...], list[tuple[int, Place]]] = defaultdict(list)  # slot and place, newest first
        self.successors: dict[tuple[int, ...], list[list[int]]] = {}  # token and count, the most frequent first
        self.step = self.expired = 0
        self.ratios: dict[tuple[str, int], Ratio] = {}

    def open_group(self, group: int, prompt: list[int], version: int = 0, memory: int | None = None) -> None:
        if not self.free_slots:
            self.free_slots.append(len(self.slots))
            self.slots.append(None)
        slot = self.free_slots.pop()
        known = NaiveGroup(Text(), version, group if memory is None else memory, slot, self.step)
        self.groups[group] = self.slots[slot] = known
        for token in prompt:
            self._take(known, known.prompt, token)

    def append(self, items: list[tuple[int, int, int, list[int]]]) -> None:
        """Items of group, sequence, offset, tokens."""
        items = sorted(items, key=lambda item: item[:3])
        for group, *_ in items:
            self.touch(group)
        for group, sequence, offset, tokens in items:
            known = self.groups[group]
            text = known.responses.setdefault(sequence, Text())
            assert offset <= len(text.tokens)
            for token in tokens[len(text.tokens) - offset :]:
                self._take(known, text, token)

    def _take(self, group: NaiveGroup, text: Text, token: int) -> None:
        before = group.before(text, len(text.tokens))
        place = group.take(text, token)
        for order in ORDERS:
            if self.shared and SHORTEST_OTHERS <= order <= len(before):
                places = self.recent[tuple(before[-order:])]
                others = [(slot, other) for slot, other in places if slot != group.slot]
                places[:] = [(group.slot, place), *others][:MOST_OTHERS]
        for length in SUCCESSOR_LENGTHS:
            if self.shared and length <= len(before):
                count(self.successors.setdefault(tuple(before[-length:]), []), token)

    def touch(self, group: int) -> None:
        known = self.groups[group]
        if known.last_step < self.step:
            known.last_step = self.step
            self.groups[group] = self.groups.pop(group)

    def begin_propose(self, groups: list[int]) -> None:
        """One step on, with what a proposal for the groups does to all others."""
        for group in sorted(groups):
            self.touch(group)
        self.step += 1
        for group, known in list(self.groups.items()):
            if 0 < self.ttl_steps < self.step - known.last_step:
                self.expired += 1
                self.drop_group(group)

    def drop_sequence(self, group: int, sequence: int) -> None:
        text = self.groups[group].responses.pop(sequence, None) if group in self.groups else None
        if text is not None:
            text.dropped = True

    def drop_group(self, group: int) -> None:
        known = self.groups.pop(group, None)
        if known is not None:
            self.slots[known.slot] = None
            self.free_slots.append(known.slot)

    def drop_version(self, version: int) -> None:
        for group, known in list(self.groups.items()):
            if known.version == version:
                self.drop_group(group)

    def clear(self) -> None:
        for group in list(self.groups):
            self.drop_group(group)
        self.successors.clear()

    def context(self, group: int, sequence: int) -> list[int]:
        """The last tokens of a sequence's text."""
        own = self.groups[group]
        response = own.responses.get(sequence, Text())
        return own.before(response, len(response.tokens))[-self.max_match :]

    def votes(self, group: int, sequence: int) -> list[Vote]:
        """One for each occurrence of a suffix of the sequence's text."""
        own = self.groups[group]
        response = own.responses.get(sequence, Text())
        context = self.context(group, sequence)
        memory = self.groups.get(own.memory)
        votes: list[Vote] = []
        for searched in [own] if memory in (own, None) else [own, memory]:
            self._vote(searched, context, response, votes)
        places: list[tuple[int, Place]] = []
        for order in ORDERS:
            if order <= len(context):
                places += [p for p in self.recent.get(tuple(context[-order:]), []) if p not in places]
        for slot, place in places:
            other = self.slots[slot]
            if other is None or other in (own, memory) or len(votes) >= self.max_candidates * 3 // 2:
                continue
            stored = other.at(place)
            if stored is not None:
                matched = common_suffix(other.before(*stored), context)
                if matched > 0:
                    votes.append(Vote(stored[0].tokens[stored[1] :], matched, OTHER))
        return votes

    def _vote(self, group: NaiveGroup, context: list[int], response: Text, votes: list[Vote]) -> None:
        below = len(context) + 1  # matches of this length and longer have voted
        for order in ORDERS:
            # Enough have matched: shorter suffixes are left out.
            if order > len(context) or 2 * len(votes) >= self.max_candidates:
                continue
            chain = [
                (text, index)
                for text, index, _ in reversed(group.order)
                if group.before(text, index)[-order:] == context[-order:]
            ]
            for text, index in chain[: self.max_candidates]:
                matched = common_suffix(group.before(text, index), context)
                if matched < below and not text.dropped:
                    votes.append(Vote(text.tokens[index:], matched, OWN if text is response else SIBLING))
            below = order

    def ratio(self, kind: str, number: int) -> Ratio:
        prior = PRIOR_RATIOS[number] if kind == "cell" else 1.0
        return self.ratios.setdefault((kind, number), Ratio(prior, prior))

    def observe(self, proposal: Proposal, accepted: list[bool]) -> None:
        starts = proposal.starts.tolist()
        changed = set()
        for first, end in itertools.pairwise(starts):
            for node in range(first, end):
                parent = int(proposal.parents[node])
                if parent < 0 or accepted[first + parent]:
                    changed |= self._observe(Evidence.unpacked(int(proposal.evidence[node])), accepted[node])
        for kind, number in changed:
            self.ratio(kind, number).update(CELL_PRIOR if kind == "cell" else TOKEN_PRIOR)

    def _observe(self, evidence: Evidence, accepted: bool) -> set[tuple[str, int]]:
        cell, token, before = keys = [("cell", evidence.cell), ("token", evidence.token), ("before", evidence.before)]
        values = {key: self.ratio(*key).value for key in keys}
        share = evidence.share
        self.ratio(*cell).expected += share
        # Each of the token's two ratios corrects what the others leave.
        self.ratio(*token).expected += int(min(share * values[cell] * values[before], SHARE_ONE))
        self.ratio(*before).expected += int(min(share * values[cell] * values[token], SHARE_ONE))
        for key in keys:
            self.ratio(*key).accepted += accepted
        return set(keys)

    def probability(self, evidence: Evidence) -> float:
        """Of a node whose parent is accepted."""
        ratio = self.ratio("cell", evidence.cell).value
        ratio *= self.ratio("token", evidence.token).value * self.ratio("before", evidence.before).value
        return min(evidence.share / SHARE_ONE * min(ratio, MOST_RATIO), MOST_CERTAIN)


def count(line: list[list[int]], token: int) -> None:
    """One more time of a token in a line of tokens and counts, of which the most frequent are kept."""
    place = next((n for n, (known, _) in enumerate(line) if known == token), None)
    if place is None:
        del line[MOST_SUCCESSORS - 1 :]
        line.append([token, 1])
        return
    line[place][1] += 1
    while place > 0 and line[place][1] > line[place - 1][1]:
        line[place - 1 : place + 1] = line[place], line[place - 1]
        place -= 1
    if line[0][1] == MOST_TIMES:
        for entry in line:
            entry[1] -= entry[1] // 2


def class_of(length: int) -> int:
    return sum(length >= floor for floor in CLASS_FLOORS) - 1


def share_class(share: float) -> int:
    steps = int(share * SHARE_STEPS)
    return sum(floor * SHARE_STEPS <= steps for floor in SHARE_FLOORS)


def share_of(here: list[Vote], votes: list[Vote], depth: int) -> float:
    """Shares of the votes of matches of at least each floor, each the prior of the next one."""
    estimate = 0.0
    for floor, prior in zip(CLASS_FLOORS, PRIOR_VOTES, strict=True):
        total = sum(vote.weight for vote in votes if vote.matched + depth >= floor)
        if total > 0:
            named = sum(vote.weight for vote in here if vote.matched + depth >= floor)
            estimate = (named + prior * SIBLING * estimate) / (total + prior * SIBLING)
    return estimate


def share_left(votes: list[Vote], depth: int) -> float:
    """How much an estimate below the shortest match counts: what the priors of all classes leave of it."""
    left = 1.0
    for floor, prior in zip(CLASS_FLOORS, PRIOR_VOTES, strict=True):
        total = sum(vote.weight for vote in votes if vote.matched + depth >= floor)
        left *= prior * SIBLING / (total + prior * SIBLING)
    return left
