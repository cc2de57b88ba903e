"""bench rollout: rows and the equality check on made-up rollouts, and the command on real engines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.rollout import command, figures, measure
from bench.rollout.systems import SYSTEMS
from sglang_seer.rollout.records import GenerateRequest, Generation
from sglang_seer.rollout.synchronous import Rollout


def rollout(
    seconds: float, *, tail: float = 1.0, tokens: int = 7, steps: int = 0, others: int = 0, length: int = 10
) -> Rollout:
    """Ten samples of ten tokens, nine of which end `tail` seconds before the last; so many are of other prompts."""
    return Rollout(
        generations=[
            Generation(
                group="more-g" if number < others else "g", sample=number,
                output_ids=[tokens] * (length if number < others else 10), finish_reason="stop", prompt_tokens=3,
                submitted_s=100.0, first_s=None, finished_s=100.0 + seconds - (tail if number < 9 else 0.0),
                retractions=number, verify_steps=steps,
            )
            for number in range(10)
        ],
        loads=[],
    )  # fmt: skip


MADE = {
    "fcfs": [rollout(10.0, tail=4.0), rollout(20.0, tail=8.0)],
    "lof": [rollout(8.0), rollout(10.0)],
    "ngram": [rollout(9.0, tokens=8, steps=2), rollout(9.0, tokens=8, steps=2)],
    "seer": [rollout(5.0, steps=4), rollout(5.0, steps=4)],
}


def test_rows_are_medians_of_ratios_within_a_repetition() -> None:
    value = {(row.system, row.metric): row for row in figures.rows(MADE, "demo")}
    assert value["seer", "throughput_over_fcfs"].value == pytest.approx((2.0 + 4.0) / 2)
    assert value["seer", "throughput_over_fcfs"].spread == {"min": 2.0, "max": 4.0, "repetitions": 2}
    # lof: 12.5 and 10 tokens a second; ngram 11.1 twice. The median decides who is best.
    assert value["seer", "throughput_over_best_stock"].value == pytest.approx((8 / 5 + 10 / 5) / 2)
    assert value["lof", "throughput_over_best_stock"].value == 1.0
    assert value["seer", "tail_over_fcfs"].value == pytest.approx((1 / 4 + 1 / 8) / 2)
    assert value["seer", "acceptance_length"].value == 2.5
    assert value["fcfs", "retractions"].value == 45
    assert (value["seer", "samples_identical"].value, value["seer", "samples_total"].value) == (20, 20)
    assert value["ngram", "samples_identical"].value == 0


def test_samples_that_differ_are_found_where_they_must_not() -> None:
    assert figures.differing(MADE) == {}  # ngram's may
    assert figures.differing({**MADE, "seer": [rollout(5.0), rollout(5.0, tokens=8)]}) == {"seer": 10}


def test_a_partial_rollout_is_said_to_return_others() -> None:
    """Six of ten samples are of prompts beyond those that were wanted, and shorter."""
    made = {**MADE, "partial": [rollout(5.0, others=6, length=5), rollout(5.0, others=6, length=5)]}
    assert figures.differing(made) == {}
    value = {(row.system, row.metric): row.value for row in figures.rows(made, "demo")}
    assert (value["partial", "samples_identical"], value["partial", "samples_total"]) == (8, 20)
    assert value["partial", "mean_length_over_fcfs"] == pytest.approx(0.7)
    assert value["seer", "mean_length_over_fcfs"] == 1.0
    # It is none of the stock settings that the others are measured by, however fast.
    assert (
        figures.best_stock({name: [figures.measured(one) for one in runs] for name, runs in made.items()}) != "partial"
    )
    # Samples that are there are those of plain decoding, or the run does not count; elsewhere none may be missing.
    wrong = {**made, "partial": [rollout(5.0, others=6, tokens=8), rollout(5.0, others=6)]}
    assert figures.differing(wrong) == {"partial": 4}
    assert figures.differing({**MADE, "seer": [rollout(5.0, others=6), rollout(5.0)]}) == {"seer": 6}


def test_a_replay_has_nothing_to_over_issue(tmp_path: Path) -> None:
    engines = measure.Engines(count=1, flags=(), environment={}, chunk_tokens=8)
    asked = [GenerateRequest(group="g", sample=0, input_ids=[1], limit=4, seed=0)]
    with pytest.raises(ValueError, match="partial: issues 2 requests, there are 1"):
        measure.run("partial", engines, asked, tmp_path)


def test_systems_say_what_they_are() -> None:
    assert SYSTEMS["observe"].environment == {"SGLANG_SEER": "observe"}
    stock = {name for name, system in SYSTEMS.items() if system.stock}
    assert {"fcfs", "lof", "lpm", "ngram"} <= stock and not stock & {"divided", "seer", "drop-in", "observe", "partial"}
    assert all(SYSTEMS[name].environment == {"SGLANG_SEER": "off"} for name in stock)
    assert {name for name, system in SYSTEMS.items() if not system.exact} == {n for n in SYSTEMS if "ngram" in n}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--systems", "seer,best"], "saw 'best'"),
        (["--repetitions", "0"], "--repetitions: wanted at least 1, saw 0"),
    ],
)
def test_bad_arguments(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(argv)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_on_real_engines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    argv = ["--workload", "quick", "--systems", "drop-in", "--repetitions", "1", "--json", str(file)]
    assert command.main([*argv, "--plots", str(tmp_path)]) == 0
    kept = json.loads(file.read_text())
    value = {(row["system"], row["metric"]): row["value"] for row in kept["rows"]}
    assert kept["command"].endswith("--workload quick --systems fcfs,drop-in --repetitions 1")
    assert value["drop-in", "samples_identical"] == value["drop-in", "samples_total"] == 6
    assert value["drop-in", "acceptance_length"] > value["fcfs", "acceptance_length"] == 1.0
    assert (tmp_path / "rollout_quick.png").stat().st_size > 5_000
    assert "Seer in each engine" in capsys.readouterr().out
