"""The length benchmark from end to end on generated data, and its measures against cases worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.lengths import command, measure, workloads
from bench.lengths.measure import Moment, Target
from bench.lengths.workloads import Drawn, Workload
from sglang_seer.context.remaining import Exactly
from tests.bench import traces_of


def test_the_command_measures_traces_and_drawn_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    traces_of.write(data / "small.jsonl.zst", traces_of.rows(6, 4))
    out = tmp_path / "rows.json"
    sizes = ["--seeds", "2", "--groups", "12", "--group-size", "4"]
    assert command.main(["--data", str(data), "--json", str(out), *sizes]) == 0
    kept = json.loads(out.read_text())
    assert {row["system"] for row in kept["rows"]} == {"longest_sibling", "context", "all_siblings"}
    metrics = {"log_error", "spearman", "coverage_q50", "coverage_q90", "coverage_q95"}
    assert {row["metric"] for row in kept["rows"]} == metrics
    cases = {row["case"] for row in kept["rows"]}
    assert {"small/0 siblings", "small/2 siblings", "small/50% ended", "correlation 0.6/90% ended"} <= cases
    assert {row["spread"]["repetitions"] for row in kept["rows"]} == {2}
    assert set(kept["workloads"]) == {"small", *(how.name for how in workloads.DRAWN)}
    assert f"| {'small, 2 siblings'.ljust(10)}" in capsys.readouterr().out
    again = tmp_path / "again.json"
    assert command.main(["--data", str(data), "--json", str(again), *sizes]) == 0
    assert json.loads(again.read_text())["rows"] == kept["rows"]


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_drawn_lengths_have_the_correlation_asked_for(correlation: float) -> None:
    drawn = workloads.draw(Drawn("one", correlation), groups=400, size=8)
    assert workloads.correlation(drawn.groups) == pytest.approx(correlation, abs=0.06)


def test_a_share_of_drawn_lengths_is_cut() -> None:
    cut = workloads.draw(Drawn("cut", 0.5, cut_share=0.2), groups=200, size=8)
    assert np.mean(np.concatenate(cut.groups) == cut.limit_tokens) == pytest.approx(0.2, abs=0.01)


def test_moments_of_a_rollout_add_up() -> None:
    workload = workloads.draw(Drawn("one", 0.5), groups=20, size=4)
    everyone = {(group, member) for group in range(20) for member in range(4)}
    for moment in measure.during_rollout(workload, (0.25, 0.5, 0.9), 0):
        open_ = {(target.group, target.member) for target in moment.unfinished}
        assert not open_ & set(moment.ended) and open_ | set(moment.ended) <= everyone
        assert len(open_) + len(moment.ended) >= 79  # one may end in this very step
        assert all(0 <= one.generated_tokens < one.tokens for one in moment.unfinished)
        # In slots for a quarter of the requests, run in lockstep.
        assert sum(one.generated_tokens > 0 for one in moment.unfinished) <= 20


def test_scores_of_a_perfect_and_of_a_hopeless_forecast() -> None:
    truth = np.array([5.0, 50.0, 500.0])
    perfect = measure.score([Exactly(t) for t in truth], truth)
    assert (perfect.log_error, perfect.coverage) == (0.0, (1.0, 1.0, 1.0))
    assert perfect.spearman == pytest.approx(1)
    turned = measure.score([Exactly(t) for t in truth[::-1]], truth)
    assert turned.spearman == pytest.approx(-1)
    assert turned.coverage[0] == pytest.approx(2 / 3)
    assert turned.log_error == pytest.approx(np.log(100) * np.sqrt(2 / 3))
    assert measure.score([Exactly(7.0)] * 3, truth).spearman == 0


def test_equal_values_share_a_rank() -> None:
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
    assert measure.spearman(np.array([1, 2, 2, 3]), np.array([1, 2, 3, 4])) == pytest.approx(4.5 / np.sqrt(22.5))


def test_the_bound_leaves_out_the_response_itself() -> None:
    workload = Workload("two", False, [np.array([100, 400]), np.array([90, 110])], 1024)
    said = measure.AllSiblings(workload).remaining(Target(0, 0, 0, 100))
    assert said.quantile(0.5) == pytest.approx(400)
    scored = measure.scores(workload, Moment("m", [(0, 1)], [Target(0, 0, 0, 100), Target(1, 0, 0, 90)]))
    assert set(scored) == {*measure.MODELS, "all_siblings"}


def test_bad_data_and_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--data", str(tmp_path)]) == 2
    assert "wanted at least one *.jsonl.zst file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command.main(["--group-size", "1"])


def test_a_set_without_siblings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    traces_of.write(tmp_path / "alone.jsonl.zst", traces_of.rows(3, 1))
    assert command.main(["--data", str(tmp_path)]) == 2
    assert "alone: wanted a prompt with at least two responses" in capsys.readouterr().err
