"""The waiting requests, kept sorted: what `decide` answers, for the price of what changed since the last time."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from operator import itemgetter

from sglang_seer.context import LengthModel
from sglang_seer.schedule.policy import (
    KIND,
    SINCE,
    Block,
    Decision,
    Probe,
    Rules,
    Snapshot,
    Waiting,
    decision_of,
    place_group,
    placed_alike,
)

_BY_ARRIVAL = itemgetter(0)


class WaitingQueue:
    """Waiting requests by group, and their order under one length model.

    `decide` looks again at groups that gained or lost a waiting or running member or whose lengths changed, and at all
    of them when the model says that anything may have changed.
    """

    def __init__(self, lengths: LengthModel, rules: Rules | None = None) -> None:
        self._lengths = lengths
        self._rules = rules or Rules()
        # Tuples, because decisions hold them.
        self._by_group: dict[str, tuple[Waiting, ...]] = {}
        self._size = 0
        # What all members of a group have in common, None once they differed; until the group is gone.
        self._kind: dict[str, tuple[int, int] | None] = {}
        self._running: dict[str, int] = {}
        self._dirty: set[str] = set()
        self._version = lengths.version
        # (admitted_before, arrival) of those that are not overdue yet, and by group those that are.
        self._in_time: list[tuple[int, int, str]] = []
        self._late: dict[str, set[int]] = {}
        self._overdue: list[Waiting] = []
        self._placed: dict[str, tuple[Sequence[Probe], Sequence[Block]]] = {}
        self._probes: list[Probe] = []
        self._blocks: list[Block] = []

    def __len__(self) -> int:
        return self._size

    @property
    def by_group(self) -> Mapping[str, Sequence[Waiting]]:
        """Live: do not change it."""
        return self._by_group

    def snapshot(self, running: Mapping[str, int], admitted: int) -> Snapshot:
        return Snapshot(self._by_group, self._lengths, running, admitted)

    def add(self, entry: Waiting) -> None:
        """Add a request. Raises ValueError if its arrival is taken."""
        members = self._by_group.get(entry.group, ())
        at = bisect_left(members, entry.arrival, key=_BY_ARRIVAL)
        if at < len(members) and members[at].arrival == entry.arrival:
            raise ValueError(f"arrival {entry.arrival} of group {entry.group!r} waits already")
        self._by_group[entry.group] = (*members[:at], entry, *members[at:])
        if self._kind.setdefault(entry.group, KIND(entry)) != KIND(entry):
            self._kind[entry.group] = None
        insort(self._in_time, (entry.admitted_before, entry.arrival, entry.group))
        self._size += 1
        self._dirty.add(entry.group)
        self._lengths.touch(entry.group, entry.limit_tokens)

    def remove(self, entry: Waiting) -> None:
        """Remove a request. Raises ValueError if it does not wait."""
        members = self._by_group.get(entry.group, ())
        at = bisect_left(members, entry.arrival, key=_BY_ARRIVAL)
        if at == len(members) or members[at].arrival != entry.arrival:
            raise ValueError(f"arrival {entry.arrival} of group {entry.group!r} does not wait")
        held, left = members[at], members[:at] + members[at + 1 :]
        if left:
            self._by_group[entry.group] = left
        else:
            del self._by_group[entry.group], self._kind[entry.group]
        late = self._late.get(entry.group)
        if late is not None and entry.arrival in late:
            late.discard(entry.arrival)
            if not late:
                del self._late[entry.group]
            del self._overdue[bisect_left(self._overdue, SINCE(held), key=SINCE)]
        else:
            del self._in_time[bisect_left(self._in_time, SINCE(held))]
        self._size -= 1
        self._dirty.add(entry.group)

    def decide(self, running: Mapping[str, int], admitted: int) -> Decision:
        """As `policy.decide` of the same snapshot. running: members that run, by group; admitted never falls."""
        self._note_overdue(admitted)
        self._note_running(running)
        dirty = self._groups_to_place()
        if 4 * len(dirty) > len(self._by_group):
            self._place_all()
        else:
            for group in dirty:
                self._place(group)
        self._dirty.clear()
        return decision_of(self._overdue, self._probes, self._blocks, admitted)

    def _note_overdue(self, admitted: int) -> None:
        newest_overdue = admitted - self._rules.starvation_limit
        if not self._in_time or self._in_time[0][0] > newest_overdue:
            return
        count = bisect_left(self._in_time, (newest_overdue + 1,))
        for _, arrival, group in self._in_time[:count]:
            members = self._by_group[group]
            insort(self._overdue, members[bisect_left(members, arrival, key=_BY_ARRIVAL)], key=SINCE)
            self._late.setdefault(group, set()).add(arrival)
            self._dirty.add(group)
        del self._in_time[:count]

    def _note_running(self, running: Mapping[str, int]) -> None:
        if running == self._running:
            return
        for group in {*running, *self._running}:
            if running.get(group, 0) != self._running.get(group, 0):
                self._dirty.add(group)
        self._running = dict(running)

    def _groups_to_place(self) -> set[str]:
        changed = self._lengths.changed(self._version)
        self._version = self._lengths.version
        if changed is None:
            return {*self._by_group, *self._placed}
        return {group for group in self._dirty.union(changed) if group in self._by_group or group in self._placed}

    def _answer(self, group: str) -> tuple[list[Probe], list[Block]]:
        members: Sequence[Waiting] = self._by_group[group]
        late, running = self._late.get(group), self._running.get(group, 0)
        if late is not None:
            running += len(late)
            members = [entry for entry in members if entry.arrival not in late]
        return place_group(group, members, self._lengths, running, self._rules, alike=self._kind[group] is not None)

    def _plain(self) -> list[str]:
        """Groups whose answer is that of every such group of their size and kind: all, when a rollout begins."""
        kind, running, late, untold = self._kind, self._running, self._late, self._lengths.untold
        return [
            group
            for group in self._by_group
            if kind[group] is not None and group not in running and group not in late and untold(group)
        ]

    def _place_all(self) -> None:
        plain: dict[tuple[int, tuple[int, int] | None], list[str]] = {}
        for group in self._plain():
            plain.setdefault((len(self._by_group[group]), self._kind[group]), []).append(group)
        self._placed = {}
        for groups in plain.values():
            others = [self._by_group[group] for group in groups]
            self._placed.update(zip(groups, placed_alike(*self._answer(groups[0]), others), strict=False))
        for group in self._by_group:
            if group not in self._placed:
                self._placed[group] = self._answer(group)
        self._probes = [probe for probes, _ in self._placed.values() for probe in probes]
        self._blocks = [block for _, blocks in self._placed.values() for block in blocks]
        self._probes.sort()
        self._blocks.sort()

    def _place(self, group: str) -> None:
        """Take a group out of the sorted lists and put it where it belongs now."""
        probes, blocks = self._placed.pop(group, ([], []))
        for probe in probes:
            del self._probes[bisect_left(self._probes, probe)]
        for block in blocks:
            del self._blocks[bisect_left(self._blocks, block)]
        if group not in self._by_group:
            return
        self._placed[group] = probes, blocks = self._answer(group)
        for probe in probes:
            insort(self._probes, probe)
        for block in blocks:
            insort(self._blocks, block)
