"""Figures of a run that can be worked out by hand, and the table against a baseline."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sglang_seer.report import chunk_charts, group_charts, load_charts
from sglang_seer.report.history import History, collect
from sglang_seer.report.measures import FIGURES, broken, rows, text_table, unlike
from sglang_seer.rollout.events import Event, Start
from tests.report.run_files import A, B, chunk, finish, known_run, submit


def history(said: list[Event], name: str = "run") -> History:
    return collect([Start(began_s=0.0, settings={}), *said], Path(name))


def test_every_figure() -> None:
    run = history(known_run())
    assert {figure.name: figure.seen(run) for figure in FIGURES} == {
        "samples submitted": 4,
        "samples ended": 4,
        "output tokens": 145.0,
        "seconds": 10.0,
        "tokens/s": 14.5,
        # The third of four ends at 7 s.
        "tail seconds (only the last 10% run)": 3.0,
        "tail, % of the time": 30.0,
        "response tokens, median": 32.5,
        "response tokens, longest": 60.0,
        # 100 for 20, 25 for 30, 100 for 60, 60 for 35: the median of 5, 1.2, 5/3 and 12/7.
        "length estimate off by a factor of (median)": pytest.approx((5 / 3 + 12 / 7) / 2),
        # 20 tokens in 10 steps and 25 in 5.
        "acceptance length (bonus included)": 3.0,
        "KV in use, mean %": pytest.approx(50.0),
        "KV in use, peak %": pytest.approx(80.0),
        "chunks": 6,
        "migrations": 2,
        # 45 tokens of input, 30 cached, and one is always computed.
        "tokens prefilled again": 14,
        "retractions": 1,
        "chunks broken off": 1,
    }
    assert broken(run) == Counter({"connection": 1})


def test_what_is_not_known_is_a_dash() -> None:
    shown = {row.name: row.run for row in rows(history([submit(0, "g", 0)]))}
    unknown = {name for name, text in shown.items() if text == "-"}
    assert {"tokens/s", "response tokens, median", "acceptance length (bonus included)", "KV in use, peak %"} <= unknown
    assert shown["samples ended"] == "0"


def one(seconds: float, tokens: int, name: str) -> History:
    return history([submit(0, "g", 0), chunk(0, seconds, "g", 0, A, tokens), finish(seconds, "g", 0, tokens)], name)


def test_ratios_are_of_the_run_to_the_baseline() -> None:
    found = {row.name: row for row in rows(one(2, 80, "run"), one(8, 80, "base"))}
    assert found["seconds"][1:] == ("2.0", "8.0", "0.25x", "better")
    assert found["tokens/s"][1:] == ("40", "10", "4.00x", "better")
    # Neither good nor bad.
    assert found["output tokens"][1:] == ("80", "80", "", "")
    # All of one sample is tail, on both sides.
    assert found["tail, % of the time"][1:] == ("100", "100", "1.00x", "")
    back = {row.name: row for row in rows(one(8, 80, "run"), one(2, 80, "base"))}
    assert (back["seconds"].verdict, back["tokens/s"].verdict) == ("worse", "worse")


def test_the_text_table() -> None:
    found = rows(one(2, 80, "run"), one(8, 80, "base"))
    lines = text_table(found, with_baseline=True).splitlines()
    assert lines[0].split() == ["run", "baseline", "ratio"]
    assert next(line for line in lines if line.startswith("seconds")).split() == ["seconds", "2.0", "8.0", "0.25x"]
    assert text_table(rows(one(2, 80, "run")), with_baseline=False).splitlines()[0].split() == ["run"]


def test_unlike_runs_say_so() -> None:
    assert unlike(one(2, 80, "run"), one(8, 80, "base")) is None
    assert unlike(one(2, 80, "run"), one(8, 81, "base")) == "1 of 1 samples have another length in the baseline."
    assert "was asked for other samples (1 against 4, 0 in both)" in (
        unlike(history(known_run()), one(8, 8, "b")) or ""
    )


def test_requests_over_time() -> None:
    run = history(known_run())
    times = np.array([0.0, 1.0, 2.0, 4.5, 6.5, 7.0, 9.9, 10.0])
    assert load_charts.unfinished(run, times).tolist() == [4, 4, 3, 3, 2, 1, 1, 0]
    assert load_charts.running(run, times).tolist() == [2, 2, 2, 2, 1, 1, 1, 0]
    assert load_charts.running(run, times, B).tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    # 20 + 40 / 4 * 2 tokens in the first two seconds, 40 / 4 + 30 / 3 in the third.
    assert load_charts.pace(run, np.array([0.0, 2.0, 3.0])).tolist() == pytest.approx([20.0, 20.0])


def test_kv_of_an_engine_that_is_down_is_not_known() -> None:
    shares = load_charts.kv_share(history(known_run()), B, np.array([0.5, 1.0, 5.9, 6.0, 9.0]))
    assert shares[1:3].tolist() == [20.0, 20.0]
    assert np.isnan(shares[[0, 3, 4]]).all()


def test_lengths_are_sorted_and_estimates_follow_their_rows() -> None:
    run = history(known_run())
    groups, lengths = group_charts.lengths(run)
    assert groups == ["g1", "g0"]
    assert lengths.tolist() == [[60.0, 35.0], [20.0, 30.0]]
    guessed = group_charts.estimates(run, groups, np.array([0.0, 1.0, 2.0, 4.9, 5.1, 7.5, 10.0]))
    assert guessed[0].tolist() == [100.0, 100.0, 100.0, 100.0, 100.0, 60.0, 25.0]
    # Its last sample ends at 5 s.
    assert guessed[1, :4].tolist() == [100.0, 100.0, 25.0, 25.0]
    assert np.isnan(guessed[1, 4:]).all()


def test_a_response_that_was_broken_off_has_no_length() -> None:
    run = history(
        [submit(0, "g", 0), submit(0, "g", 1), finish(1, "g", 0, 9, reason="cancelled"), finish(2, "g", 1, 8)]
    )
    _, lengths = group_charts.lengths(run)
    assert lengths[0, 0] == 8.0 and np.isnan(lengths[0, 1])


def test_reasons_are_counted_by_kind() -> None:
    found = chunk_charts.reasons(history(known_run()))
    assert list(found.items()) == [("longest first", [2.0, 4.0, 5.0]), ("probe", [0.0, 0.0]), ("overdue", [7.0])]
    assert chunk_charts.kind("") == "not said"


def test_acceptance_needs_some_steps() -> None:
    told = [submit(0, "g", 0), chunk(0, 10, "g", 0, A, 300, verify_steps=100), finish(10, "g", 0, 300)]
    assert chunk_charts.acceptance(history(told), np.array([0.0, 9.0, 10.0])).tolist()[0] == pytest.approx(3.0)
    # Ten steps in the last second are too few to show.
    assert np.isnan(chunk_charts.acceptance(history(told), np.array([0.0, 9.0, 10.0]))[1])
