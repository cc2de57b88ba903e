"""Context-aware order of waiting requests (Seer, OSDI 2026, section 3.3 and A.1).

    overdue            whoever was passed by too often, by the time since it waits
    probes             requests that tell about their group: least tried group first, then smallest generated length
    the rest           longest possible remainder first, by steps of `resolution`, then by arrival

Probes make short groups known early and long ones by elimination; longest-first then keeps the tail short. Possible is
what one response in a thousand exceeds: the last of thousands ends the rollout, so that what matters of a request is
how long it may get, and not how long it gets on average. Groups that may still be long share the engine then, instead
of waiting for each other. Nothing here reads a clock or an unordered set: every rank of an engine decides the same.

A probe is worth its place while what it tells is expected to move its group's waiting requests by more than one step
of the order: with k more of the group waiting, it moves k of k + 1 requests by `LengthModel.information`. So there are
more probes where prompts differ and samples scatter, and none where the prompt tells nothing about the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from math import floor, inf, log2
from operator import itemgetter
from typing import Any, NamedTuple

from sglang_seer.context import LengthModel

STARVATION_LIMIT = 4096
# In octaves: estimates that differ by less than 19% are the same, and then arrival decides.
RESOLUTION = 0.25
QUANTILE = 0.999
_NATS_PER_OCTAVE = 0.6931471805599453


class Waiting(NamedTuple):
    """One waiting request; a tuple that sorts by arrival, because thousands of them are looked at in a pass.

    arrival: unique, in the order in which requests came; also the request's name in `LengthModel.progress`.
    admitted_before: the admission count when it began to wait.
    handle: whatever the caller wants back; never looked at.
    """

    arrival: int
    group: str
    generated_tokens: int
    limit_tokens: int
    admitted_before: int
    handle: object = None


# When a request began to wait; by arrival those that began together.
SINCE = itemgetter(4, 0)
# Tokens generated and limit: requests of a group that agree on them are alike.
KIND = itemgetter(2, 3)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a decision may depend on.

    waiting: requests by group, each group in order of arrival. lengths: what is known of their lengths. running: how
    many members of each group run. admitted: requests admitted since the start.
    """

    waiting: Mapping[str, Sequence[Waiting]]
    lengths: LengthModel
    running: Mapping[str, int] = field(default_factory=dict)
    admitted: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """starvation_limit: admissions that may pass a request by. resolution: step of the order in octaves, 0 for none.
    quantile: of the remaining tokens, by which the rest is ordered."""

    starvation_limit: int = STARVATION_LIMIT
    resolution: float = RESOLUTION
    quantile: float = QUANTILE

    def __post_init__(self) -> None:
        if self.starvation_limit < 1:
            raise ValueError(f"starvation_limit: got {self.starvation_limit}, wanted at least 1")
        if not 0 <= self.resolution <= 16:
            raise ValueError(f"resolution: got {self.resolution}, wanted 0 to 16 octaves")
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile: got {self.quantile}, wanted between 0 and 1")

    def rank(self, possible_tokens: float) -> float:
        """What the rest is sorted by, smallest first: one number for estimates that count as equal."""
        return -floor(log2(possible_tokens) / self.resolution) if self.resolution else -possible_tokens


class Probe(NamedTuple):
    """tried: members of the group that finished or run before this one. tells: expected move of the log length."""

    tried: int
    generated_tokens: int
    arrival: int
    tells: float
    entry: Waiting


class Block(NamedTuple):
    """Members of one group that are alike, by arrival, with the tokens that each may need still (`Rules.quantile`).

    They are `members` after the first `probes` of them. Not cut out: when a rollout begins, a look at thousands of
    members is what a decision costs.
    """

    rank: float
    arrival: int
    possible_tokens: float
    finished: int
    members: Sequence[Waiting]
    probes: int


# As Probe(...) and Block(...), of a tuple and faster: at a rollout's start there are thousands of them.
_probe: Callable[[tuple[Any, ...]], Probe] = partial(tuple.__new__, Probe)
_a_block: Callable[[tuple[Any, ...]], Block] = partial(tuple.__new__, Block)


@dataclass(frozen=True, slots=True)
class Decision:
    """`order` holds the waiting requests, best first; the first `overdue + probes` of them are those classes."""

    order: Sequence[Waiting]
    overdue: int
    probes: int
    admitted: int
    chosen: Sequence[Probe]
    blocks: Sequence[Block]

    def reason(self, place: int) -> str:
        """Why the request at that place of the order is there."""
        if not 0 <= place < len(self.order):
            raise ValueError(f"place: got {place}, wanted 0 to {len(self.order) - 1}")
        if place < self.overdue:
            return f"overdue: {self.admitted - self.order[place].admitted_before} were admitted while it waited"
        if place < self.overdue + self.probes:
            tried, _, _, tells, _ = self.chosen[place - self.overdue]
            if tells == inf:
                return "probe: nothing is known of its group"
            return f"probe: would move its group's estimate by {100 * tells:.0f}% ({tried} members before it)"
        block = self._block(place)
        known = f"{block.finished} siblings finished" if block.finished else "no sibling finished"
        return f"longest first: up to {block.possible_tokens:,.0f} tokens to come ({known})"

    def rank(self, place: int) -> tuple[float, float]:
        """Of a request of the rest: what it was sorted by, smallest first, and the tokens it may need."""
        if not self.overdue + self.probes <= place < len(self.order):
            raise ValueError(f"place: got {place}, wanted one of the rest")
        block = self._block(place)
        return block.rank, block.possible_tokens

    def _block(self, place: int) -> Block:
        place -= self.overdue + self.probes
        for block in self.blocks:
            place -= len(block.members) - block.probes
            if place < 0:
                return block
        raise AssertionError("the blocks hold fewer requests than the order")


def place_group(
    group: str, members: Sequence[Waiting], lengths: LengthModel, running: int, rules: Rules, *, alike: bool = False
) -> tuple[list[Probe], list[Block]]:
    """Probes and blocks of one group.

    members: those that are not overdue, by arrival. running: those that run, or will before them because they are
    overdue. alike: whether the members are known to have generated the same number of tokens under one limit.
    """
    finished = lengths.finished(group)
    probes: list[Probe] = []
    others, ahead, step = len(members), running, rules.resolution * _NATS_PER_OCTAVE
    for entry in members:
        others -= 1
        tells = lengths.information(group, ahead)
        if tells * others <= step * (others + 1) and tells < inf:
            break
        probes.append(Probe(finished + ahead, entry.generated_tokens, entry.arrival, tells, entry))
        ahead += 1
    tested = len(probes)
    if tested == len(members):
        return probes, []
    kinds: dict[tuple[int, int], list[Waiting]] = {}
    if not alike:
        for entry in members[tested:]:
            kinds.setdefault(KIND(entry), []).append(entry)
    if len(kinds) < 2:
        return probes, [_block(group, members, tested, lengths, rules)]
    return probes, [_block(group, entries, 0, lengths, rules) for entries in kinds.values()]


def placed_alike(
    probes: Sequence[Probe], blocks: Sequence[Block], others: Sequence[Sequence[Waiting]]
) -> Iterable[tuple[Sequence[Probe], Sequence[Block]]]:
    """What `place_group` says of other groups, from what it said of one of which the same is known.

    others: members of each, as many as the one has, all of them alike and like its members.
    """
    tested = len(probes)
    of_probes: Iterable[Sequence[Probe]] = repeat(())
    if probes:
        of_probes = zip(
            *(
                [_probe((tried, generated, members[place][0], tells, members[place])) for members in others]
                for place, (tried, generated, _, tells, _) in enumerate(probes)
            ),
            strict=True,
        )
    if not blocks:
        return zip(of_probes, repeat(()), strict=False)
    ((rank, _, possible, finished, _, _),) = blocks
    of_blocks = [(_a_block((rank, members[tested][0], possible, finished, members, tested)),) for members in others]
    return zip(of_probes, of_blocks, strict=False)


def _block(group: str, members: Sequence[Waiting], probes: int, lengths: LengthModel, rules: Rules) -> Block:
    arrival, _, generated, limit, _, _ = members[probes]
    member = arrival if generated else None
    possible = lengths.remaining(group, generated, limit, member=member).quantile(rules.quantile)
    return Block(rules.rank(possible), arrival, possible, lengths.finished(group), members, probes)


def decide(snapshot: Snapshot, rules: Rules | None = None) -> Decision:
    """Order the waiting requests.

    Starvation guard: a request is overdue once `starvation_limit` others were admitted while it waited; then only those
    that began to wait before it go first, and older ones that began with it. So where requests are admitted from the
    front, at most `starvation_limit + n` go before one that found `n` others waiting (counting those that joined it
    before the next admission).
    """
    rules = rules or Rules()
    newest_overdue = snapshot.admitted - rules.starvation_limit
    overdue: list[Waiting] = []
    probes: list[Probe] = []
    blocks: list[Block] = []
    for group, members in snapshot.waiting.items():
        running = snapshot.running.get(group, 0)
        late = [entry for entry in members if entry.admitted_before <= newest_overdue]
        if late:
            overdue += late
            running += len(late)
            members = [entry for entry in members if entry.admitted_before > newest_overdue]
        its_probes, its_blocks = place_group(group, members, snapshot.lengths, running, rules)
        probes += its_probes
        blocks += its_blocks
    overdue.sort(key=SINCE)
    probes.sort()
    blocks.sort()
    return decision_of(overdue, probes, blocks, snapshot.admitted)


def decision_of(
    overdue: Sequence[Waiting], probes: Sequence[Probe], blocks: Sequence[Block], admitted: int
) -> Decision:
    """The decision of classes that are sorted."""
    order = [*overdue, *(probe.entry for probe in probes)]
    for block in blocks:
        order += block.members[block.probes :]
    return Decision(order, len(overdue), len(probes), admitted, list(probes), list(blocks))
