"""The GPU suite: its parts exist and take the arguments they get, a CPU is told, and tiny parts run on one."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch

from bench.gpu import command, plan
from sglang_seer.draft.step_time import StepTimes
from sglang_seer.sim import profile


@pytest.mark.parametrize("shares", [True, False])
def test_every_part_takes_its_arguments(shares: bool, tmp_path: Path) -> None:
    """The parsers of the benchmarks take what the plan gives them."""
    jobs = plan.full(shares=shares, data=tmp_path)
    assert len({job.name for job in jobs}) == len(jobs)
    assert max(job.limit_s for job in jobs) <= 480
    for job in [*jobs, *plan.quick_cpu()]:
        name, *words = job.argv
        if name == "verify":
            continue  # it parses in its main
        options = import_module(f"bench.{name}.command")._parse(words)
        if name == "replay" and job in jobs:
            assert "--attention-backend" in options.engine_flag and options.data == tmp_path
            assert ("seer" in options.systems) == shares and ("seer-alone" in options.systems) != shares
    shapes = {job.argv[2] for job in jobs if job.argv[0] == "steps"}
    assert shapes == {"0.6b", "8b", "32b"}


def test_a_cpu_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 2
    assert "sees no CUDA device here" in capsys.readouterr().err
    assert command.main(["--quick-cpu", "--only", "everything"]) == 2
    assert "saw 'everything'" in capsys.readouterr().err


def test_tiny_parts_run_on_a_cpu_and_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "results"
    code = command.main(["--quick-cpu", "--json-folder", str(folder)])
    printed = capsys.readouterr()
    assert code == 0, printed.out + printed.err
    kept = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert {job["name"] for job in kept["summary"]["jobs"]} == {job.name for job in plan.quick_cpu()}
    rows = {name: {(row["system"], row["case"], row["metric"]): row["value"] for row in one.get("rows", [])}
            for name, one in kept.items()}  # fmt: skip
    # Widths 0, 1, 2 and 4 of each batch, and profiles that their readers take.
    assert {case for _, case, _ in rows["steps_tiny"]} == {
        f"context 16, batch {batch}, nodes {nodes}" for batch in (1, 2) for nodes in (0, 1, 2, 4)
    }
    assert StepTimes.load(folder / "step_times_tiny.json").num_observations == 8
    assert profile.read(folder / "sim_profile_tiny.json").kv_bytes_per_token == 2 * 4 * 2 * 1 * 32
    same = {(system, case): value for (system, case, metric), value in rows["equality_eager"].items()
            if metric == "samples_identical"}  # fmt: skip
    assert same == {("seer", "overlap, sampled"): 6, ("seer", "overlap, greedy"): 2}
    assert {value for (_, _, metric), value in rows["replay_two"].items() if metric == "samples_identical"} == {4}
    assert command.main(["--quick-cpu", "--json-folder", str(folder), "--only", "verify,draft"]) == 0
    assert capsys.readouterr().out.count("kept") == 2
