"""decide() against its definition, written out naively, and its promises under permutation and starvation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_seer.context import ContextLengths, LengthModel, LongestSibling
from sglang_seer.schedule import Rules, Snapshot, Waiting, WaitingQueue, decide

LIMIT = 100
MODELS: list[Callable[[], LengthModel]] = [LongestSibling, ContextLengths]


def grouped(entries: list[Waiting]) -> dict[str, list[Waiting]]:
    by_group: dict[str, list[Waiting]] = {}
    for entry in sorted(entries):
        by_group.setdefault(entry.group, []).append(entry)
    return by_group


def naive_order(snapshot: Snapshot, rules: Rules) -> list[int]:
    """The definition, request by request, without any thought of speed: arrivals, best first."""
    lengths = snapshot.lengths
    everyone = [entry for members in snapshot.waiting.values() for entry in members]
    overdue = [entry for entry in everyone if snapshot.admitted - entry.admitted_before >= rules.starvation_limit]
    keys: list[tuple[float, ...]] = [(0, entry.admitted_before, entry.arrival) for entry in overdue]
    for entry in everyone:
        if entry in overdue:
            continue
        siblings = [other for other in snapshot.waiting[entry.group] if other not in overdue]
        ahead = snapshot.running.get(entry.group, 0)
        ahead += sum(other.group == entry.group for other in overdue)
        probes: list[Waiting] = []
        for place, candidate in enumerate(siblings):
            tells, behind = lengths.information(entry.group, ahead + place), len(siblings) - place - 1
            step = rules.resolution * math.log(2)
            if tells != math.inf and (tells * behind) / (behind + 1) <= step:
                break
            probes.append(candidate)
        if entry in probes:
            tried = lengths.finished(entry.group) + ahead + probes.index(entry)
            keys.append((1, tried, entry.generated_tokens, entry.arrival))
            continue
        alike = [
            other
            for other in siblings
            if other not in probes
            and (other.generated_tokens, other.limit_tokens) == (entry.generated_tokens, entry.limit_tokens)
        ]
        first = min(other.arrival for other in alike)
        expected = lengths.expected_tokens(entry.group, entry.limit_tokens)
        if entry.generated_tokens:
            expected = lengths.remaining(entry.group, entry.generated_tokens, entry.limit_tokens, member=first).mean
        keys.append((2, rules.rank(expected), first, entry.arrival))
    return [int(key[-1]) for key in sorted(keys)]


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    lengths = draw(st.sampled_from(MODELS))()
    names = [f"g{i}" for i in range(draw(st.integers(1, 5)))]
    entries = [
        Waiting(
            arrival=arrival,
            group=draw(st.sampled_from(names)),
            generated_tokens=draw(st.integers(0, 3)),
            limit_tokens=draw(st.sampled_from([LIMIT, 2 * LIMIT])),
            admitted_before=draw(st.integers(0, 20)),
        )
        for arrival in range(draw(st.integers(0, 25)))
    ]
    for name in names:
        for length in draw(st.lists(st.integers(1, 2 * LIMIT), max_size=4)):
            lengths.finish(name, length, limit_tokens=2 * LIMIT)
        for member, length in enumerate(draw(st.lists(st.integers(1, 2 * LIMIT), max_size=2))):
            lengths.progress(name, member, length)
    running = {name: count for name in names if (count := draw(st.integers(0, 2)))}
    return Snapshot(grouped(entries), lengths, running, admitted=draw(st.integers(20, 40)))


rules_of = st.builds(Rules, starvation_limit=st.integers(1, 50), resolution=st.sampled_from([0.0, 0.1, 0.25, 1.0]))


@given(snapshots(), rules_of)
@settings(max_examples=300, deadline=None)
def test_order_is_that_of_the_definition(snapshot: Snapshot, rules: Rules) -> None:
    assert [entry.arrival for entry in decide(snapshot, rules).order] == naive_order(snapshot, rules)


@given(snapshots(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_input_order_changes_nothing_and_nothing_is_lost(snapshot: Snapshot, rng: random.Random) -> None:
    groups = list(snapshot.waiting.items())
    rng.shuffle(groups)
    shuffled = Snapshot(dict(groups), snapshot.lengths, snapshot.running, snapshot.admitted)
    decision = decide(snapshot)
    assert decide(shuffled).order == decision.order
    everyone = sorted(entry for members in snapshot.waiting.values() for entry in members)
    assert sorted(decision.order) == everyone


@given(snapshots(), rules_of)
@settings(max_examples=100, deadline=None)
def test_every_place_has_the_reason_of_its_class(snapshot: Snapshot, rules: Rules) -> None:
    decision = decide(snapshot, rules)
    classes = [decision.reason(place).split(":")[0] for place in range(len(decision.order))]
    rest = len(decision.order) - decision.overdue - decision.probes
    assert classes == ["overdue"] * decision.overdue + ["probe"] * decision.probes + ["longest first"] * rest
    with pytest.raises(ValueError, match="place: got"):
        decision.reason(len(decision.order))


def _overtaken(starvation_limit: int, rounds: int) -> int:
    """Admissions before a short group's member runs, while a longer group keeps getting new members."""
    lengths = LongestSibling()
    lengths.finish("short", 1)
    lengths.finish("long", 99)
    queue = WaitingQueue(lengths, Rules(starvation_limit=starvation_limit))
    queue.add(Waiting(0, "short", 0, LIMIT, 0))
    for admitted in range(rounds):
        queue.add(Waiting(admitted + 1, "long", 0, LIMIT, admitted))
        first = queue.decide({}, admitted).order[0]
        if first.group == "short":
            return admitted
        queue.remove(first)
    return rounds


def test_nobody_is_overtaken_more_often_than_the_limit() -> None:
    assert _overtaken(starvation_limit=10, rounds=100) == 10


def test_without_the_guard_the_short_group_starves() -> None:
    assert _overtaken(starvation_limit=10**9, rounds=100) == 100


def test_probe_first_then_longest_under_the_papers_rule() -> None:
    entries = [
        Waiting(arrival, name, generated, LIMIT, 0)
        for arrival, (name, generated) in enumerate([("a", 0), ("a", 0), ("b", 5), ("b", 0), ("c", 0)])
    ]
    lengths = LongestSibling()
    lengths.finish("c", 7)
    decision = decide(Snapshot(grouped(entries), lengths))
    # Probes of a and b, fewest generated tokens first; then unknown groups as long as the limit; c is known and short.
    assert [entry.arrival for entry in decision.order] == [0, 2, 1, 3, 4]
    assert (decision.overdue, decision.probes) == (0, 2)
    assert decision.reason(0) == "probe: nothing is known of its group"
    assert decision.reason(4) == "longest first: 7 tokens expected (1 siblings finished)"


@pytest.mark.parametrize(
    ("rules", "message"),
    [({"starvation_limit": 0}, "starvation_limit: got 0"), ({"resolution": -0.5}, "resolution: got -0.5")],
)
def test_impossible_rules(rules: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rules(**rules)  # type: ignore[arg-type]
