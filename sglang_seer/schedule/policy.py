"""Context-aware order of waiting requests (Seer, OSDI 2026, section 3.3 and A.1).

    overdue            whoever was overtaken too often, by arrival
    probes             one request of each group nobody knows yet: smallest generated length first
    the rest           group with the largest estimate first, inside a group by arrival

Probes make short groups known early and long ones by elimination; longest-first then keeps the tail short. Nothing
here reads a clock or an unordered set: every rank of an engine decides the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from sglang_seer.context import estimate_tokens


class Waiting(NamedTuple):
    """One waiting request; a tuple that sorts by arrival, because thousands of them are looked at in a pass.

    arrival: unique, in the order in which requests came. admitted_before: the admission count when it began to wait.
    handle: whatever the caller wants back; never looked at.
    """

    arrival: int
    group: str
    generated_tokens: int
    limit_tokens: int
    admitted_before: int
    handle: object = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a decision may depend on.

    waiting: requests by group, each group in order of arrival. longest_tokens: longest finished response of groups
    that have one. running: groups with a member in the running batch. admitted: requests admitted since the start.
    """

    waiting: Mapping[str, Sequence[Waiting]]
    longest_tokens: Mapping[str, int] = field(default_factory=dict)
    running: Set[str] = frozenset()
    admitted: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """`order` holds the waiting requests, best first; the first `overdue + probes` of them are those classes."""

    order: Sequence[Waiting]
    overdue: int
    probes: int


def decide(snapshot: Snapshot, *, starvation_limit: int = 4096) -> Decision:
    """Order the waiting requests.

    A request is placed ahead of everything but older overdue ones as soon as `starvation_limit` others were admitted
    while it and all older waiting members of its group waited. Cost: a sort of the groups and one copy.
    """
    if starvation_limit < 1:
        raise ValueError(f"starvation_limit: got {starvation_limit}, wanted at least 1")
    newest_overdue = snapshot.admitted - starvation_limit
    overdue: list[Waiting] = []
    probes: list[tuple[int, int, Waiting]] = []
    rest: list[tuple[int, int, Sequence[Waiting]]] = []
    for group, waiting in snapshot.waiting.items():
        late = 0
        while late < len(waiting) and waiting[late].admitted_before <= newest_overdue:
            late += 1
        members = waiting[late:] if late else waiting
        if late:
            overdue += waiting[:late]
            if not members:
                continue
        first = members[0]
        longest = snapshot.longest_tokens.get(group)
        if longest is None and not late and group not in snapshot.running:
            probes.append((first.generated_tokens, first.arrival, first))
            if len(members) == 1:
                continue
            members = members[1:]
            first = members[0]
        rest.append((-estimate_tokens(longest, first.limit_tokens), first.arrival, members))

    overdue.sort()
    probes.sort()
    rest.sort()
    order = overdue + [probe for _, _, probe in probes]
    for _, _, members in rest:
        order += members
    return Decision(order=order, overdue=len(overdue), probes=len(probes))


class WaitingGroups:
    """The waiting requests by group, kept up to date so that a pass need not sort them again."""

    def __init__(self) -> None:
        self.by_group: dict[str, list[Waiting]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, entry: Waiting) -> None:
        """Add a request. Raises ValueError if its arrival is taken."""
        members = self.by_group.setdefault(entry.group, [])
        at = bisect_left(members, entry.arrival, key=itemgetter(0))
        if at < len(members) and members[at].arrival == entry.arrival:
            raise ValueError(f"arrival {entry.arrival} of group {entry.group!r} waits already")
        members.insert(at, entry)
        self._size += 1

    def remove(self, entry: Waiting) -> None:
        """Remove a request. Raises ValueError if it does not wait."""
        members = self.by_group.get(entry.group, [])
        at = bisect_left(members, entry.arrival, key=itemgetter(0))
        if at == len(members) or members[at].arrival != entry.arrival:
            raise ValueError(f"arrival {entry.arrival} of group {entry.group!r} does not wait")
        del members[at]
        if not members:
            del self.by_group[entry.group]
        self._size -= 1
