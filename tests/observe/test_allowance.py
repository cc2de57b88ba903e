"""Work on the side takes at most its share of the time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_seer.observe.allowance import Allowance


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def pass_(self, seconds: float) -> None:
        self.now_s += seconds


def worked(clock: Clock, allowance: Allowance, pieces: list[tuple[float, float]], *, always: bool) -> float:
    """Seconds of work; pieces: time between two looks, and how long the work would take."""
    total = 0.0
    for between_s, takes_s in pieces:
        clock.pass_(between_s)
        if always or allowance.open:
            allowance.spend(lambda takes_s=takes_s: clock.pass_(takes_s))
            total += takes_s
    return total


times = st.floats(0.001, 10.0)


@given(pieces=st.lists(st.tuples(times, times), min_size=1, max_size=50), share=st.floats(0.001, 0.5))
def test_the_share_is_kept_but_for_the_last_piece(pieces: list[tuple[float, float]], share: float) -> None:
    clock = Clock()
    total = worked(clock, Allowance(share, clock), pieces, always=False)
    assert total <= share * clock.now_s + max(takes_s for _, takes_s in pieces) + 1e-6


def test_without_it_the_share_is_not_kept() -> None:
    """Negative control: the same pieces, with nobody asking whether there is time."""
    clock = Clock()
    pieces = [(1.0, 1.0)] * 20
    assert worked(clock, Allowance(0.01, clock), pieces, always=True) > 0.4 * clock.now_s
    clock = Clock()
    assert worked(clock, Allowance(0.01, clock), pieces, always=False) == 1.0


def test_work_that_fails_took_its_time() -> None:
    clock = Clock()
    allowance = Allowance(0.5, clock)

    def fail() -> None:
        clock.pass_(3.0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        allowance.spend(fail)
    clock.pass_(2.9)
    assert not allowance.open
    clock.pass_(0.2)
    assert allowance.open


def test_a_share_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"share: got 1.0, wanted between 0 and 1"):
        Allowance(1.0)
