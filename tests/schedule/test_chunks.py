"""When a request yields: never without a reason, and never to an equal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_seer.context import LongestSibling
from sglang_seer.schedule import Decision, Rules, Waiting, decide, reason_to_yield
from sglang_seer.schedule.policy import Snapshot

LIMIT = 1000
RULES = Rules(starvation_limit=10)


def waiting(*groups: str, admitted: int = 0) -> Decision:
    """Groups a (long), b (short), and any other (unknown)."""
    lengths = LongestSibling()
    lengths.finish("a", 800)
    lengths.finish("b", 20)
    by_group: dict[str, list[Waiting]] = {}
    for arrival, group in enumerate(groups):
        by_group.setdefault(group, []).append(Waiting(arrival, group, 0, LIMIT, 0))
    return decide(Snapshot(by_group, lengths, {}, admitted), RULES)


def test_nobody_yields_while_nobody_waits() -> None:
    assert reason_to_yield(waiting(), 5, room=0, rules=RULES) is None


def test_a_short_rest_yields_to_a_long_one_and_not_the_other_way() -> None:
    reason = reason_to_yield(waiting("a"), 300, room=0, rules=RULES)
    assert reason == "longer first: 800 tokens expected of a waiting request, 300 of this one"
    assert reason_to_yield(waiting("b"), 300, room=0, rules=RULES) is None


def test_probes_and_overdue_requests_go_first_whatever_their_length() -> None:
    assert reason_to_yield(waiting("new"), LIMIT, room=0, rules=RULES) == "probe: nothing is known of its group"
    late = reason_to_yield(waiting("b", admitted=10), LIMIT, room=0, rules=RULES)
    assert late is not None and late.startswith("overdue")


def test_nobody_yields_to_those_who_join_anyway() -> None:
    assert reason_to_yield(waiting("new", "b"), 300, room=1, rules=RULES) is None
    assert reason_to_yield(waiting("new", "a"), 300, room=1, rules=RULES) is not None
    assert reason_to_yield(waiting("new", "a"), 300, room=2, rules=RULES) is None


@given(st.floats(1, LIMIT))
def test_equals_never_change_places(expected: float) -> None:
    """If this one yields to that one, that one does not yield to this one."""
    lengths = LongestSibling()
    lengths.finish("a", round(expected))

    def yields(mine: float, theirs: int) -> bool:
        lengths.clear()
        lengths.finish("a", theirs)
        other = decide(Snapshot({"a": [Waiting(0, "a", 0, LIMIT, 0)]}, lengths), RULES)
        return reason_to_yield(other, mine, room=0, rules=RULES) is not None

    for theirs in (round(expected), round(expected * 1.05) + 1, LIMIT):
        assert not (yields(expected, theirs) and yields(theirs, max(round(expected), 1)))
    assert not yields(round(expected), round(expected))


def test_impossible_arguments() -> None:
    with pytest.raises(ValueError, match="expected_tokens: got 0"):
        reason_to_yield(waiting("a"), 0, room=0, rules=RULES)
    with pytest.raises(ValueError, match="room: got -1"):
        reason_to_yield(waiting("a"), 5, room=-1, rules=RULES)
    with pytest.raises(ValueError, match="place: got 0, wanted one of the rest"):
        waiting("new").rank(0)
