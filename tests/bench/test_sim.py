"""bench sim: the command on tiny plans, and figures against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.sim import command, figures, paper, plan
from bench.sim.cells import Cell, Outcome
from bench.sim.figures import Outcomes
from sglang_seer.sim.workload import PAPER

TINY = plan.scaled(PAPER["moonlight"], 0.02)


def outcome(case: str, policy: str, seed: int, seconds: float, tail_s: float = 1.0, retractions: int = 0) -> Outcome:
    cell = Cell(case, TINY, policy, seed)
    return Outcome(cell, seconds, 1000.0 / seconds, tail_s, retractions, 0.0, 1.0, 1.0, [[0.0, 1, 0, 0.5]])


def test_ratios_are_taken_seed_by_seed() -> None:
    made = Outcomes(
        [outcome("x", "verl", seed, seconds, tail_s=10.0) for seed, seconds in enumerate((10.0, 30.0, 20.0))]
        + [outcome("x", "seer", seed, 10.0, tail_s=1.0) for seed in range(3)]
    )
    found = {(row.system, row.metric): row for row in figures.rows(made)}
    row = found["seer", "throughput_over_verl"]
    assert (row.value, row.spread) == (2.0, {"min": 1.0, "max": 3.0, "repetitions": 3})
    assert found["seer", "tail_over_verl"].value == pytest.approx(0.1)
    assert ("seer", "throughput_over_oracle") not in found
    assert ("verl", "throughput_over_verl") not in found


def test_verdicts_name_what_is_far(capsys: pytest.CaptureFixture[str]) -> None:
    case = paper.QWEN
    near = Outcomes([outcome(case, "oracle", 0, 120.0), outcome(case, "seer", 0, 128.0)])
    far = Outcomes([outcome(case, "oracle", 0, 50.0), outcome(case, "seer", 0, 100.0)])

    def verdict(outcomes: Outcomes) -> tuple[list[float], bool]:
        (one,) = [one for one in paper.verdicts(outcomes) if "oracle" in one.claim.name]
        return one.values, one.near

    assert verdict(near) == (pytest.approx([0.9375]), True)
    assert verdict(far) == (pytest.approx([0.5]), False)


@pytest.mark.parametrize("quick", [True, False])
def test_the_plan_covers_what_is_asked(quick: bool) -> None:
    cells = plan.tables(quick)
    assert {(cell.case, cell.policy) for cell in cells} == {(name, p) for name in PAPER for p in plan.POLICIES}
    assert {cell.seed for cell in cells} == ({0} if quick else {0, 1, 2, 3, 4})
    assert all(len({(c.case, c.policy, c.seed) for c in part}) == len(part) for part in (cells, plan.sweeps(quick)))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def few(quick: bool, seeds: int) -> list[Cell]:
        return [Cell("moonlight", TINY, policy, 0) for policy in ("verl", "divided", "seer", "seer-spec", "oracle")]

    def swept(quick: bool, seeds: int) -> list[Cell]:
        return [Cell("G=8", TINY, policy, 0) for policy in ("verl", "seer")]

    monkeypatch.setattr(plan, "tables", few)
    monkeypatch.setattr(plan, "group_sizes", lambda quick, seeds: [])
    monkeypatch.setattr(plan, "sweeps", swept)
    monkeypatch.setattr(plan, "clusters", lambda quick: [])
    out, pictures = tmp_path / "rows.json", tmp_path / "plots"
    assert command.main(["--json", str(out), "--plots", str(pictures)]) == 0
    kept = json.loads(out.read_text())
    assert {row["metric"] for row in kept["rows"]} >= {
        "throughput_over_verl",
        "tail_over_verl",
        "throughput_over_oracle",
    }
    assert kept["simulated"] is True
    assert all((one["why"] is None) == one["within_15_percent"] for one in kept["paper"])
    assert sorted(path.name for path in pictures.iterdir()) == ["sim_G.png", "sim_ablation.png", "sim_tail.png"]
    assert "Differences of more than 15%" in capsys.readouterr().out
    assert command.main(["--part", "sweeps", "--json", str(tmp_path)]) == 2
