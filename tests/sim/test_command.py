"""The command: a table and a file for good input; one line and exit code 2 for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sglang_seer.sim.command import main

SMALL = ["--workload", "moonlight", "--prompts", "8", "--gpus", "2"]


def test_runs_and_keeps_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs.json"
    policies = "verl,partial,seer,seer-spec"
    assert main([*SMALL, "--policy", policies, "--slow", "1=2", "--fail", "0@5+5", "--json", str(out)]) == 0
    runs = json.loads(out.read_text())["runs"]
    assert [run["policy"] for run in runs] == policies.split(",")
    assert runs[0]["tokens"] == runs[2]["tokens"] == runs[3]["tokens"]
    assert runs[2]["failures"] == 1
    shown = capsys.readouterr().out
    assert "Moonlight on 1 H800" in shown and len(shown.splitlines()) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "best"], "policy: got 'best', wanted one of fcfs"),
        (["--gpu", "H900"], "gpu: got 'H900'"),
        (["--workload", "nowhere.json"], "workload nowhere.json: cannot be read"),
        (["--profile", "nowhere.json"], "profile nowhere.json: cannot be read"),
        (["--trace", "nowhere.json"], "trace nowhere.json: cannot be read"),
        (["--workload", "kimi-k2", "--gpus", "33"], "--gpus: got 33, wanted a multiple of the 32"),
        (["--limit-tokens", "100"], "limit_tokens: got 100, wanted at least mean_tokens"),
        (["--memory-fraction", "0.2"], "memory_fraction: got 0.2, wanted more"),
        (["--slow", "one"], "--slow: got 'one'"),
        (["--fail", "1@x"], "--fail: got '1@x'"),
        (["--json", "nowhere/at/all.json", "--policy", "seer", "--prompts", "1"], "nowhere/at/all.json"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("simulate: ") and len(said.splitlines()) == 1
