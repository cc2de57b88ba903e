"""decide() against its definition, written out naively, and its promises under permutation and starvation."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_seer.schedule import Snapshot, Waiting, WaitingGroups, decide

LIMIT = 100


def naive_order(snapshot: Snapshot, starvation_limit: int) -> list[Waiting]:
    """The definition, class by class, without any thought of speed."""
    everyone = [entry for members in snapshot.waiting.values() for entry in members]
    overdue = []
    for entry in everyone:
        older_in_group = [other for other in snapshot.waiting[entry.group] if other.arrival <= entry.arrival]
        if all(snapshot.admitted - other.admitted_before >= starvation_limit for other in older_in_group):
            overdue.append(entry)
    left = [entry for entry in everyone if entry not in overdue]
    started = {entry.group for entry in overdue} | set(snapshot.running) | set(snapshot.longest_tokens)
    probes = [
        entry
        for entry in left
        if entry.group not in started
        and entry.arrival == min(other.arrival for other in left if other.group == entry.group)
    ]
    rest = [entry for entry in left if entry not in probes]

    def group_key(entry: Waiting) -> tuple[int, int, int]:
        limit = min(other for other in rest if other.group == entry.group).limit_tokens
        estimate = min(snapshot.longest_tokens.get(entry.group, limit), limit)
        first = min(other.arrival for other in rest if other.group == entry.group)
        return (-estimate, first, entry.arrival)

    return (
        sorted(overdue, key=lambda e: e.arrival)
        + sorted(probes, key=lambda e: (e.generated_tokens, e.arrival))
        + sorted(rest, key=group_key)
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    names = [f"g{i}" for i in range(draw(st.integers(1, 5)))]
    count = draw(st.integers(0, 25))
    groups = WaitingGroups()
    for arrival in draw(st.permutations(range(count))):
        groups.add(
            Waiting(
                arrival=arrival,
                group=draw(st.sampled_from(names)),
                generated_tokens=draw(st.integers(0, 3)),
                limit_tokens=draw(st.sampled_from([LIMIT, 2 * LIMIT])),
                admitted_before=draw(st.integers(0, 20)),
            )
        )
    estimates = {name: draw(st.integers(1, 3 * LIMIT)) for name in names if draw(st.booleans())}
    running = frozenset(name for name in names if draw(st.booleans()))
    return Snapshot(groups.by_group, estimates, running, admitted=draw(st.integers(20, 40)))


@given(snapshots(), st.integers(1, 50))
@settings(max_examples=300, deadline=None)
def test_order_is_that_of_the_definition(snapshot: Snapshot, starvation_limit: int) -> None:
    assert list(decide(snapshot, starvation_limit=starvation_limit).order) == naive_order(snapshot, starvation_limit)


@given(snapshots(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_input_order_changes_nothing_and_nothing_is_lost(snapshot: Snapshot, rng: random.Random) -> None:
    groups = list(snapshot.waiting.items())
    rng.shuffle(groups)
    shuffled = Snapshot(dict(groups), snapshot.longest_tokens, snapshot.running, snapshot.admitted)
    decision = decide(snapshot)
    assert decide(shuffled).order == decision.order
    everyone = sorted(entry for members in snapshot.waiting.values() for entry in members)
    assert sorted(decision.order) == everyone


def _overtaken(starvation_limit: int, rounds: int) -> int:
    """Admissions before a short group's second member runs, while a longer group keeps getting new members."""
    groups = WaitingGroups()
    groups.add(Waiting(0, "short", 0, LIMIT, 0))
    estimates = {"short": 1, "long": 99}
    for admitted in range(rounds):
        groups.add(Waiting(admitted + 1, "long", 0, LIMIT, admitted))
        first = decide(
            Snapshot(groups.by_group, estimates, frozenset(), admitted), starvation_limit=starvation_limit
        ).order[0]
        if first.group == "short":
            return admitted
        groups.remove(first)
    return rounds


def test_nobody_is_overtaken_more_often_than_the_limit() -> None:
    assert _overtaken(starvation_limit=10, rounds=100) == 10


def test_without_the_guard_the_short_group_starves() -> None:
    assert _overtaken(starvation_limit=10**9, rounds=100) == 100


def test_probe_first_then_longest() -> None:
    groups = WaitingGroups()
    for arrival, (name, generated) in enumerate([("a", 0), ("a", 0), ("b", 5), ("b", 0), ("c", 0)]):
        groups.add(Waiting(arrival, name, generated, LIMIT, 0))
    decision = decide(Snapshot(groups.by_group, {"c": 7}, frozenset()))
    # Probes of a and b, fewest generated tokens first; then unknown groups as long as the limit; c is known and short.
    assert [entry.arrival for entry in decision.order] == [0, 2, 1, 3, 4]
    assert (decision.overdue, decision.probes) == (0, 2)


def test_waiting_groups_refuse_doubles_and_strangers() -> None:
    groups = WaitingGroups()
    entry = Waiting(1, "a", 0, LIMIT, 0)
    groups.add(entry)
    with pytest.raises(ValueError, match="waits already"):
        groups.add(entry)
    groups.remove(entry)
    assert len(groups) == 0 and not groups.by_group
    with pytest.raises(ValueError, match="does not wait"):
        groups.remove(entry)


def test_impossible_starvation_limit() -> None:
    with pytest.raises(ValueError, match="starvation_limit: got 0"):
        decide(Snapshot({}), starvation_limit=0)
