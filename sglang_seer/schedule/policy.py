"""Context-aware order of waiting requests (Seer, OSDI 2026, section 3.3 and A.1).

    overdue            whoever was overtaken too often, by arrival
    probes             one request of each group nobody knows yet: smallest generated length first
    the rest           group with the largest estimate first, inside a group by arrival

Probes make short groups known early and long ones by elimination; longest-first then keeps the tail short. Nothing
here reads a clock or an unordered set: every rank of an engine decides the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from operator import attrgetter


@dataclass(frozen=True, slots=True)
class Waiting:
    """One waiting request. `arrival` is unique; `admitted_before` is the admission count when it began to wait."""

    group: str
    arrival: int
    generated_tokens: int
    limit_tokens: int
    admitted_before: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a decision may depend on.

    waiting: in any order. estimates: expected length in tokens of groups with a finished member. running: groups with
    a member in the running batch. admitted: requests admitted since the start.
    """

    waiting: Sequence[Waiting]
    estimates: Mapping[str, int] = field(default_factory=dict)
    running: Set[str] = frozenset()
    admitted: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """`order` holds the waiting requests, best first; the first `overdue + probes` of them are those classes."""

    order: Sequence[Waiting]
    overdue: int
    probes: int


_ARRIVAL = attrgetter("arrival")
_SHORTEST_FIRST = attrgetter("generated_tokens", "arrival")



def decide(snapshot: Snapshot, *, starvation_limit: int = 4096) -> Decision:
    """Order the waiting requests.

    A request is placed ahead of everything but older overdue ones as soon as `starvation_limit` others were admitted
    while it waited. Cost: one pass over the requests and a sort of the groups.
    """
    if starvation_limit < 1:
        raise ValueError(f"starvation_limit: got {starvation_limit}, wanted at least 1")
    estimates, running, admitted = snapshot.estimates, snapshot.running, snapshot.admitted
    groups: dict[str, list[Waiting]] = {}
    overdue: list[Waiting] = []
    newest_allowed = admitted - starvation_limit
    for request in snapshot.waiting:
        if request.admitted_before <= newest_allowed:
            overdue.append(request)
        elif request.group in groups:
            groups[request.group].append(request)
        else:
            groups[request.group] = [request]

    overdue.sort(key=_ARRIVAL)
    started = {request.group for request in overdue}
    probes: list[Waiting] = []
    rest: list[tuple[int, int, list[Waiting]]] = []
    for group, members in groups.items():
        members.sort(key=_ARRIVAL)
        estimate = estimates.get(group)
        if estimate is None:
            estimate = members[0].limit_tokens
            if group not in running and group not in started:
                probes.append(members.pop(0))
        if members:
            rest.append((-estimate, members[0].arrival, members))

    probes.sort(key=_SHORTEST_FIRST)
    rest.sort(key=lambda entry: entry[:2])
    order = overdue + probes
    for _, _, members in rest:
        order += members
    return Decision(order=order, overdue=len(overdue), probes=len(probes))
