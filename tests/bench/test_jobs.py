"""Benchmarks as jobs: kept, failed, too long; and the plan of `bench all`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench import jobs
from bench.all import command
from bench.jobs import Job, carry_out
from bench.rows import header
from sglang_seer import bench

SMALL = Job(
    name="small", what="a few drawn lengths", limit_s=300.0,
    argv=("lengths", "--seeds", "1", "--groups", "2", "--group-size", "2"),
)  # fmt: skip
WRONG = Job(name="wrong", what="bad arguments", argv=("lengths", "--seeds", "0"), limit_s=300.0)
# Its stand-in engines are processes of their own.
LONG = Job(
    name="long", what="a load that goes on", limit_s=6.0,
    argv=("controller", "--engines", "2", "--in-flight", "20", "--rate", "10", "--seconds", "600"),
)  # fmt: skip
HEAD = header("test", ("numpy",))


MARK = "SEER_TEST_OF_JOBS"


def _environment(process: psutil.Process) -> dict[str, str]:
    if process == psutil.Process():
        return {}
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_one_that_fails_and_one_that_is_too_long_do_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong.json").write_text("what an earlier run left")
    monkeypatch.setenv(MARK, str(tmp_path))
    summary = tmp_path / "summary.json"
    found = carry_out([WRONG, LONG, SMALL], tmp_path, summary, HEAD, again=False, logs=tmp_path)
    assert [one.state for one in found] == ["failed", "over time", "done"]
    assert "exit status 2" in found[0].said and "--seeds: wanted at least 1" in found[0].said
    assert not (tmp_path / "wrong.json").exists()
    # Nothing of it is left running, the stand-in engines neither: those that were killed go at once.
    left = [one for one in psutil.process_iter() if _environment(one).get(MARK) == str(tmp_path)]
    assert psutil.wait_procs(left, timeout=60.0)[1] == []
    assert json.loads((tmp_path / "small.json").read_text())["rows"]
    kept = json.loads(summary.read_text())
    assert [one["state"] for one in kept["jobs"]] == ["failed", "over time", "done"]
    assert kept["hardware"]["cores"] >= 1


def test_what_was_done_is_kept_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def run(job: Job, folder: Path, key: str, logs: Path) -> jobs.Outcome:
        made.append(job.name)
        (folder / f"{job.name}.json").write_text("{}")
        state: jobs.State = "failed" if job.name == "wrong" else "done"
        return jobs.Outcome(name=job.name, state=state, seconds=1.0, key=key)

    monkeypatch.setattr(jobs, "run", run)

    def states(*wanted: Job, head: dict[str, object] = HEAD, again: bool = False) -> list[str]:
        made.clear()
        return [one.state for one in carry_out(wanted, tmp_path, tmp_path / "s.json", head, again=again, logs=tmp_path)]

    assert states(SMALL, WRONG) == ["done", "failed"]
    # Another run of other jobs forgets nothing.
    assert states(LONG) == ["done"]
    assert states(SMALL, WRONG, LONG) == ["kept", "failed", "kept"] and made == ["wrong"]
    assert states(SMALL, again=True) == ["done"]
    assert states(replace(SMALL, argv=(*SMALL.argv, "--again"))) == ["done"]
    assert states(SMALL, head=HEAD | {"hardware": {"cpu": "another"}}) == ["done"]
    (tmp_path / "small.json").unlink()
    assert states(SMALL, head=HEAD | {"hardware": {"cpu": "another"}}) == ["done"]


def test_the_digest_is_that_of_the_code(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "one.py").write_text("a = 1\n")
    seen = jobs.source_digest(tmp_path)
    (tmp_path / "bench" / "note.txt").write_text("no code")
    assert jobs.source_digest(tmp_path) == seen
    (tmp_path / "bench" / "one.py").write_text("a = 2\n")
    assert jobs.source_digest(tmp_path) != seen


def test_all_means_all(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every benchmark is run, or it is said why not."""
    names = set(bench.benchmarks(repository / "bench"))
    assert names - set(command.PLAN) - set(command.ELSEWHERE) == set() == set(command.PLAN) - names
    plan = {job.name: job.argv for job in command.jobs(quick=True, data=Path("/data"))}
    assert plan["draft"] == ("draft", "--quick", "--data", "/data") and plan["sim"] == ("sim", "--quick")
    for arguments in (["--json", "a.json", "--only", "sim,none"], ["--json", "a.txt"], []):
        with pytest.raises(SystemExit, match="2"):
            command.main(arguments)
    assert "saw 'none'" in capsys.readouterr().err


def test_all_on_a_small_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PLAN", {"lengths": ("lengths", SMALL.argv[1:])})
    assert command.main(["--json", str(tmp_path / "all.json")]) == 0
    assert (tmp_path / "all" / "lengths.json").exists()
    assert "| lengths   |  done |" in capsys.readouterr().out
    assert command.main(["--json", str(tmp_path / "all.json")]) == 0
    assert "kept" in capsys.readouterr().out
