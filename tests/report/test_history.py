"""A run put together, and run files that are none."""

from pathlib import Path

import pytest

from sglang_seer.report.history import Ended, Migration, collect, read
from sglang_seer.rollout.events import Event, Start
from tests.report.run_files import A, B, assign, chunk, engine, finish, known_run, submit, write_run

START = Start(began_s=0.0, settings={})


def told(*said: Event) -> list[Event]:
    return [START, *said]


def test_times_are_since_the_first_request(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run.jsonl", known_run()))
    assert run.name == "run.jsonl"
    assert (run.end_s, run.tail_s) == (10.0, 7.0)
    assert run.ended[0] == Ended("g0", 0, 0.0, 2.0, 20, "stop")
    assert (run.chunks[-1].began_s, run.chunks[-1].at_s) == (7.0, 10.0)
    assert run.states[0].at_s == pytest.approx(-0.1)
    assert run.settings["chunk_tokens"] == 40


def test_engines_and_their_loads(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run.jsonl", known_run()))
    assert run.engines == [A, B]
    assert {name: [load.used_tokens for load in loads] for name, loads in run.loads.items()} == {A: [50, 80], B: [20]}


def test_migrations_have_a_cause(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run.jsonl", known_run()))
    assert run.migrations == [Migration(5.0, B, A, "balance"), Migration(7.0, B, A, "engine failed")]


def test_a_sample_that_goes_home_moves_by_affinity() -> None:
    run = collect(told(submit(0, "g", 0), assign(1, "g", 0, A, placement="affinity", moved_from=B)), Path("run"))
    assert [move.cause for move in run.migrations] == ["affinity"]


def test_spans_in_which_an_engine_was_down() -> None:
    states = [engine(0, A, "up"), engine(1, B, "up"), engine(2, A, "down"), engine(3, A, "removed")]
    run = collect(told(submit(0, "g", 0), *states, engine(4, A, "up"), engine(8, A, "down"), submit(9, "g", 1)), Path())
    # The file ends at 9, with samples unfinished.
    assert run.down(A) == [(2.0, 4.0), (8.0, 9.0)]
    assert run.down(B) == []


def test_a_run_that_was_cut_off_has_no_tail() -> None:
    run = collect(told(submit(0, "g", 0), submit(0, "g", 1), finish(3, "g", 0, 7)), Path())
    assert (run.whole, run.tail_s, run.end_s) == (False, None, 3.0)
    run = collect(told(submit(0, "g", 0), submit(0, "g", 1), finish(3, "g", 0, 7), finish(4, "g", 1, 7)), Path())
    assert (run.whole, run.tail_s, run.end_s) == (True, 3.0, 4.0)


@pytest.mark.parametrize(
    "early", [assign(0, "g", 1, A), chunk(0, 1, "g", 1, A, 3), finish(2, "g", 1, 3), assign(0, "other", 0, A)]
)
def test_a_sample_that_nobody_asked_for(early: Event) -> None:
    with pytest.raises(ValueError, match=r"run, line 3: sample \d of group '\w+' was not submitted before"):
        collect(told(submit(0, "g", 0), early), Path("run"))


def test_a_run_without_requests(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run\.jsonl: the run holds no request"):
        read(write_run(tmp_path / "run.jsonl", [engine(0, A, "up")]))
