"""Figures of timelines that can be worked out by hand."""

import pytest

from sglang_seer.report.figures import figures, side_figures, tail_start_s
from tests.report.timelines import comparison, run


@pytest.mark.parametrize(
    ("finishes", "expected"),
    [
        # 20 requests: the last two are the tail, so it starts when the 18th ends.
        (range(1, 21), 18.0),
        # 19: floor(1.9) is one.
        (range(1, 20), 18.0),
        # Fewer than ten still have a tail of one request.
        ([5.0, 1.0, 3.0], 3.0),
        # One request: all of it is tail.
        ([7.0], 0.0),
        # Equal ends: no tail.
        ([4.0] * 20, 4.0),
    ],
)
def test_tail_start(finishes: list[float], expected: float) -> None:
    assert tail_start_s([run(float(finish)) for finish in finishes]) == expected


def test_tail_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="saw none"):
        tail_start_s([])


def test_side_figures() -> None:
    runs = [run(2.0, tokens=30, retractions=1, verify_steps=10), run(4.0, tokens=50, retractions=2, verify_steps=30)]
    assert side_figures(runs) == {
        "tokens": 80,
        "seconds": 4.0,
        "throughput": 20.0,
        "tail_seconds": 2.0,
        "acceptance_length": 2.0,
        "retractions": 3,
    }


def test_requests_that_were_never_verified_do_not_dilute_the_acceptance() -> None:
    assert side_figures([run(1.0, tokens=30, verify_steps=10), run(2.0, tokens=1)])["acceptance_length"] == 3.0
    assert side_figures([run(1.0)])["acceptance_length"] == 1.0


def test_counts_nobody_reported_stay_unknown() -> None:
    assert side_figures([run(1.0, retractions=None)])["retractions"] is None


def test_ratios_are_seer_by_stock() -> None:
    numbers = figures(comparison([run(2.0), run(8.0)], [run(2.0), run(4.0)], different=[1]))
    assert numbers["throughput_ratio"] == 2.0
    assert numbers["tail_ratio"] == pytest.approx(2.0 / 6.0)
    assert (numbers["samples_identical"], numbers["samples_total"]) == (1, 2)
    assert (numbers["mean_reward_stock"], numbers["mean_reward"]) == (1.0, 0.5)


def test_no_tail_gives_no_ratio() -> None:
    assert figures(comparison([run(2.0)] * 2, [run(2.0)] * 2))["tail_ratio"] is None
