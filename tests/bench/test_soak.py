"""The soak test: that it sees what it looks for, and a short one from end to end."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.soak import command, memory, queue
from bench.soak.engines import checkpoints, faults_in
from bench.soak.memory import LEAST_LOOKS, MOST_GROWTH_MIB, Growth, Memory, growth_of, leaks


def looks(mib_a_minute: float, *, minutes: float = 15.0) -> list[tuple[float, float]]:
    """One a second, with noise of 5 MiB."""
    seconds = np.arange(60 * minutes)
    noise = np.random.default_rng(3).normal(0, 5, len(seconds))
    return list(zip(seconds, 700 + seconds / 60 * mib_a_minute + noise, strict=True))


def test_a_leak_is_seen_through_noise() -> None:
    steady, leaking = growth_of("steady", looks(0.2)), growth_of("leaking", looks(5.0))
    assert steady.mib_a_minute == pytest.approx(0.2, abs=0.2)
    assert leaking.mib_a_minute == pytest.approx(5.0, abs=0.2)
    assert leaking.mib == pytest.approx(5.0 * 15, abs=3) and leaking.minutes == pytest.approx(15, abs=0.1)
    (told,) = leaks([steady, leaking])
    assert told.startswith("leaking: grew by 7") and f"wanted at most {MOST_GROWTH_MIB:.0f}" in told


def test_only_processes_that_were_there_all_the_time_are_judged() -> None:
    memory = Memory(dict)
    spans = {"stays": range(20), "killed": range(12), "started later": range(8, 20)}
    memory.looks = {process: [(float(second), 100.0) for second in span] for process, span in spans.items()}
    assert [one.process for one in memory.growth(5.0)] == ["stays"]
    assert len(memory.growth(20.0 - LEAST_LOOKS)) == 2
    assert memory.growth(21.0 - LEAST_LOOKS) == []


async def test_memory_is_watched_until_it_is_cancelled() -> None:
    memory = Memory(lambda: {"one": 1.0})
    task = asyncio.create_task(memory.watch())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [size for _, size in memory.looks["one"]] == [1.0]


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: token_to_kv_pool_allocator memory leak detected! ...",
        "AssertionError: Full Pool Mem Leak Detected! ...",
        "Traceback (most recent call last):",
    ],
)
def test_what_logs_tell_is_seen(tmp_path: Path, line: str) -> None:
    quiet, loud = tmp_path / "quiet.log", tmp_path / "loud.log"
    quiet.write_text("[Mem Check (BUSY)] ok\nseer: verified its first drafts\n")
    loud.write_text(f"before\n{line}\n  more\nOSError: why\n")
    assert faults_in([quiet]) == []
    (found,) = faults_in([quiet, loud])
    assert found == f"loud.log, line 2 of 4: {line} OSError: why"


def test_a_failed_call_of_sglang_to_itself_is_no_fault(tmp_path: Path) -> None:
    """Whether its path is in what was raised or not; what else is raised by a request still is one."""
    told, late, other = (tmp_path / f"{name}.log" for name in ("told", "late", "other"))
    raised = "Traceback (most recent call last):\n  File ...\n"
    told.write_text(f"[1] failed\n{raised}ConnectionError: Max retries exceeded with url: /freeze_gc\n")
    late.write_text(f"[1] post-warmup freeze_gc failed\n{raised}ReadTimeout: Read timed out.\n")
    other.write_text(f"[1] a request failed\n{raised}ReadTimeout: Read timed out.\n")
    (found,) = faults_in([told, late, other])
    assert found.startswith("other.log")


def test_the_checkpoints_differ(tmp_path: Path) -> None:
    shipped, changed = checkpoints(tmp_path).values()
    assert sorted(os.listdir(shipped)) == sorted(os.listdir(changed))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (shipped, changed)]
    assert weights[0] != weights[1]


def test_requests_of_the_queue_are_all_of_a_wave() -> None:
    bodies = queue._bodies(250, 1)
    assert [len(body["input_ids"]) for body in bodies] == [100, 100, 50]
    params = [one for body in bodies for one in body["sampling_params"]]
    hints = [(one["custom_params"]["seer"]["group"], one["custom_params"]["seer"]["sample"]) for one in params]
    assert len(set(hints)) == 250 and len({one["sampling_seed"] for one in params}) == 250
    assert {one["max_new_tokens"] for one in params} == {queue.LIMIT}


@pytest.mark.parametrize("arguments", [["--parts", "none"], ["--minutes", "0"], ["--requests", "-1"]])
def test_bad_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)


def test_a_fault_is_told_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Whether it is counted at the end, or ends the run."""
    seen = command.rounds.Outcome(rollouts=3, growth=[Growth("controller", 1.0, 60.0, 60.0)], faults=["it grew"])
    monkeypatch.setattr(command.rounds, "soak", lambda minutes, seed: seen)
    kept = tmp_path / "rows.json"
    assert command.main(["--parts", "rounds", "--json", str(kept)]) == 1
    assert json.loads(kept.read_text())["faults"] == ["it grew"]
    assert "soak: FAULT: it grew" in capsys.readouterr().err

    def lose(minutes: float, seed: int) -> None:
        raise ValueError("rollout 4: 23 samples came, wanted 24")

    monkeypatch.setattr(command.rounds, "soak", lose)
    assert command.main(["--parts", "rounds"]) == 1
    assert "FAULT: rollout 4: 23 samples came, wanted 24" in capsys.readouterr().err


def test_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in mid-rollout, updates, a restart, and a calm time after it."""
    # In so short a time what the machine pages in and out decides.
    monkeypatch.setattr(memory, "MOST_GROWTH_MIB", float("inf"))
    kept = tmp_path / "rows.json"
    assert command.main(["--parts", "rounds", "--minutes", "0.5", "--json", str(kept)]) == 0
    rows = {row["metric"]: row["value"] for row in json.loads(kept.read_text())["rows"]}
    assert rows["kills"] >= 1 and rows["weight_updates"] >= 3 and rows["chunks_broken"] > 0
    assert rows["samples_as_wanted"] > 0 and rows["text_received"] > 0


FINE = queue.Queued(
    requests=2400, returned=2400, tokens=9, most_waiting=500, passes=7, mean_pass_s=0.001, longest_pass_s=0.1,
    left_mib=3.0, used_tokens_after=0, log_faults=[],
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"returned": 2399}, "2,399 requests returned whole, wanted 2,400"),
        ({"mean_pass_s": 0.1}, "passes took 0.1000 s on average"),
        ({"longest_pass_s": 2.0}, "2.000 s at most"),
        ({"left_mib": 100.0}, "left 100 MiB"),
        ({"used_tokens_after": 4}, "4 KV slots are in use"),
        ({"most_waiting": 399}, "at most 399 requests waited, wanted half of 800"),
        ({"log_faults": ["a leak"]}, "a leak"),
    ],
)
def test_what_a_queue_must_not_do_is_told(change: dict[str, Any], told: str) -> None:
    assert FINE.faults == []
    (fault,) = replace(FINE, **change).faults
    assert told in fault


def test_a_queue_on_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What passes take is the machine's affair here, and what of it stays in memory.
    for limit in ("MOST_PASS_S", "MOST_MEAN_PASS_S", "MOST_LEFT_MIB"):
        monkeypatch.setattr(queue, limit, float("inf"))
    kept = tmp_path / "rows.json"
    assert command.main(["--parts", "queue", "--requests", "800", "--json", str(kept)]) == 0
    rows = {row["metric"]: row["value"] for row in json.loads(kept.read_text())["rows"]}
    assert rows["returned"] == rows["wanted"] == queue.WAVES * 800
    assert rows["most_waiting"] > 400 and rows["passes"] > 0 and rows["kv_left"] == 0
