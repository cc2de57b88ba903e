"""Values over time against a count by hand, one moment or span after the other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_seer.report.series import count, flow, grid, in_progress, last_said

SPANS = st.lists(st.tuples(st.integers(-5, 25), st.integers(0, 20), st.integers(0, 50)), max_size=30)
EDGES = grid(0.0, 20.0, 8)


@given(spans=SPANS)
def test_in_progress_counts_spans_that_hold_the_time(spans: list[tuple[int, int, int]]) -> None:
    times = np.arange(-6.0, 46.0, 0.5)
    begins, ends = [s for s, _, _ in spans], [s + long for s, long, _ in spans]
    expected = [sum(begin <= time < end for begin, end in zip(begins, ends, strict=True)) for time in times]
    assert in_progress(begins, ends, times).tolist() == expected


@given(spans=SPANS)
def test_flow_spreads_amounts_evenly(spans: list[tuple[int, int, int]]) -> None:
    expected = np.zeros(8)
    for begin, long, amount in spans:
        for place in range(8):
            low, high = EDGES[place], EDGES[place + 1]
            if long:
                expected[place] += amount * max(0.0, min(high, begin + long) - max(low, begin)) / long
            elif low <= begin < high or (place == 7 and begin == high):
                expected[place] += amount
    begins, ends = [s for s, _, _ in spans], [s + long for s, long, _ in spans]
    assert flow(begins, ends, [amount for _, _, amount in spans], EDGES) == pytest.approx(expected, abs=1e-9)


def test_flow_keeps_the_sum_of_very_unequal_spans() -> None:
    begins, ends, amounts = [0.0, 3.0, 3.0], [20.0, 3.0 + 1e-9, 3.0], [1.0, 1e6, 7.0]
    assert flow(begins, ends, amounts, EDGES).sum() == pytest.approx(sum(amounts))
    assert (flow(begins, ends, amounts, EDGES) >= 0).all()


def test_the_last_edge_belongs_to_the_last_bin() -> None:
    assert count([0.0, 2.4, 2.5, 20.0, 20.1], EDGES).tolist() == [2, 1, 0, 0, 0, 0, 0, 1]


def test_last_said() -> None:
    said = last_said([1.0, 2.0, 2.0], [10.0, 20.0, 30.0], np.array([0.5, 1.0, 1.9, 2.0, 9.0]))
    assert np.isnan(said[0]) and said[1:].tolist() == [10.0, 10.0, 30.0, 30.0]
    assert np.isnan(last_said([], [], np.array([1.0]))).all()


def test_a_grid_wants_bins_and_time() -> None:
    with pytest.raises(ValueError, match="bins: got 0"):
        grid(0.0, 1.0, 0)
    with pytest.raises(ValueError, match=r"end_s: got 1\.0"):
        grid(1.0, 1.0, 3)
