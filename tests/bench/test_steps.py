"""bench steps: widths in turn, times of whole batches, and profiles that their readers take."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from bench.replay.model import SHAPES
from bench.steps import command, curves, engine
from bench.steps.curves import Cell
from sglang_seer.draft import Proposal
from sglang_seer.draft.step_time import StepObservation, StepTimes
from sglang_seer.engine import pacing
from sglang_seer.sim import profile


def test_widths_take_turns_and_the_first_steps_do_not_count() -> None:
    widths = [engine.due(step, (0, 2, 4)) for step in range(4 * engine.HOLD)]
    assert [width for width, _ in widths[:: engine.HOLD]] == [0, 2, 4, 0]
    assert [counts for _, counts in widths[: engine.HOLD]] == [False] * engine.SETTLE + [True] * (
        engine.HOLD - engine.SETTLE
    )


def test_steps_are_forced_and_written_down(tmp_path: Path) -> None:
    """Seer's own pacer under a clock that we turn."""
    now = [0.0]

    class Pacer(pacing.Pacer):
        pass

    path = tmp_path / "steps.jsonl"
    engine.force_widths(SimpleNamespace(Pacer=Pacer), path)  # type: ignore[arg-type]
    pacer = Pacer(StepTimes(), (0, 4), padded=True, clock=lambda: now[0])
    kinds = (np.int32, np.int32, np.float32, np.int32, np.int64)
    nothing = Proposal(*(np.zeros(0, kind) for kind in kinds), np.zeros(3, np.int64))
    for step in range(2 * engine.HOLD):
        assert pacer.begin(2) == 0
        _, width = pacer.choose(nothing, 100 + step, np.ones(2))
        assert width == (0 if step < engine.HOLD else 4)
        now[0] += 1.0 + width
    pacer.interrupt()
    pacer.begin(2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    # A prefill came after the last step, whose time says nothing.
    kept = engine.HOLD - engine.SETTLE
    assert [(line["rows"], line["seconds"]) for line in lines] == [(2, 1.0)] * kept + [(10, 5.0)] * (kept - 1)
    assert lines[0]["context"] == 100 + engine.SETTLE


def measured(batch: int, rows: int, *seconds: float) -> list[StepObservation]:
    return [StepObservation(batch=batch, rows=rows, context=1000, seconds=one) for one in seconds]


def test_cells_are_of_whole_batches_with_enough_steps() -> None:
    seen = [
        *measured(4, 4, 1.0, 2.0, 3.0, 9.0),
        *measured(3, 3, 5.0, 5.0, 5.0, 5.0),  # one request had ended
        *measured(4, 20, 4.0, 4.0, 4.0),
    ]
    cells = curves.by_cell(seen, batch=4, context_tokens=250)
    assert list(cells) == [Cell(context_tokens=250, batch=4, nodes=0)]
    (row,) = curves.rows("tiny", cells)
    assert (row.case, row.value) == ("context 250, batch 4, nodes 0", 2500.0)
    assert curves.typical(cells[Cell(context_tokens=250, batch=4, nodes=0)]).seconds == 2.0
    assert "| 4 x 250 " in curves.curves_table("tiny", cells)


def test_profiles_are_read_by_those_they_are_for(tmp_path: Path) -> None:
    cells = {
        Cell(context_tokens=100, batch=batch, nodes=nodes): measured(batch, batch * (1 + nodes), *[0.01 * batch] * 4)
        for batch in (1, 2, 4)
        for nodes in (0, 8)
    }
    curves.step_times(cells).save(tmp_path / "steps.json")
    assert StepTimes.load(tmp_path / "steps.json").num_observations == 6
    made = curves.sim_profile("8b", SHAPES["8b"], cells, capacity_tokens=5000, value_bytes=2)
    (tmp_path / "sim.json").write_bytes(msgspec.json.encode(made))
    read = profile.read(tmp_path / "sim.json")
    # Keys and values of 36 layers of 8 heads of 128 numbers of two bytes.
    assert (read.kv_bytes_per_token, read.kv_capacity_tokens) == (147_456.0, 5000)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--batches", "1,x"], "--batches: wanted numbers from 1 by comma, saw '1,x'"),
        (["--contexts", "0"], "--contexts: wanted numbers from 1"),
        (["--rounds", "0"], "--rounds: wanted at least 1"),
        (["--draft-nodes", "64"], "--draft-nodes: wanted 1 to 63, saw 64"),
    ],
)
def test_bad_arguments(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(argv)
    assert said in capsys.readouterr().err
