"""bench observe: hooks go and come back by the second, steps are noted with and without, and an engine takes part."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.observe import command, inside, main
from bench.tables import observe
from bench.tables.results import Results


def scheduler_class() -> Any:
    """Each call has one hooked method and one without a hook."""

    def hook(original: Callable[..., str]) -> Callable[..., str]:
        @functools.wraps(original)
        def hooked(self: Any) -> str:
            return f"hooked {original(self)}"

        return hooked

    class Scheduler:
        @hook
        def process(self) -> str:
            return "process"

        def idle(self) -> str:
            return "idle"

    return Scheduler


def test_hooks_go_and_come_back() -> None:
    owner = scheduler_class()
    switch = inside.Switch(owner, ["process", "idle"])
    assert switch.names == ["process"]
    seen = []
    for here in (True, False, False, True):
        switch.turn(here)
        seen.append((owner().process(), owner().idle()))
    assert seen == [("hooked process", "idle"), ("process", "idle"), ("process", "idle"), ("hooked process", "idle")]


def test_steps_are_noted_with_hooks_and_without() -> None:
    owner, now, ran = scheduler_class(), [10.0], []
    recorder = inside.Recorder(["process"], clock=lambda: now[0], cpu=lambda: now[0] / 2)
    for decode, size in [(True, 2), (True, 2), (True, 2), (True, 1), (False, 1), (True, 1), (True, 1)]:
        batch = SimpleNamespace(reqs=[0] * size, forward_mode=SimpleNamespace(is_decode=lambda decode=decode: decode))
        recorder(lambda scheduler, _batch: ran.append(scheduler.process()), owner(), batch)
        now[0] += 0.5
    # By the second: 10.0, 10.5 | 11.0, 11.5 | 12.0, ...
    assert ran == ["hooked process"] * 2 + ["process"] * 2 + ["hooked process"] * 2 + ["process"]
    # Of as many requests as the step before it, nothing in between.
    assert recorder.told()["steps"] == [
        (2, 10.5, 0.5, 0.25, 0.0),
        (2, 11.0, 0.5, 0.25, 0.0),
        (1, 13.0, 0.5, 0.25, 0.0),
    ]
    assert inside.spans(9.5, 15.2) == [(10.0, 11.0), (12.0, 13.0), (14.0, 15.0)]


def test_an_engine_in_another_mode_gives_no_rows() -> None:
    case, told = command.CASES[1], {"hooks": ["process"], "steps": []}
    with pytest.raises(RuntimeError, match="the engine is in mode off"):
        command.rows_of(case, {"mode": "off", "bench": told}, command.QUICK)
    with pytest.raises(RuntimeError, match=r"hooks \[\]"):
        command.rows_of(case, {"mode": "observe", "bench": {**told, "hooks": []}}, command.QUICK)
    with pytest.raises(RuntimeError, match="no step had all 4 requests"):
        command.rows_of(case, {"mode": "observe", "bench": told}, command.QUICK)


def test_a_real_engine_runs_with_and_without_hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "CASES", command.CASES[1:2])
    path = tmp_path / "observe.json"
    assert main(["--quick", "--json", str(path)]) == 0
    rows = {row["metric"]: row for row in json.loads(path.read_text())["rows"]}
    assert rows["step_over_stock"]["spread"]["seconds"] >= 1
    assert 0 < rows["hook_us"]["value"] < 1e3 * rows["step_ms"]["value"]
    assert "observe" in observe.table(Results(path))
