"""From measured steps to curves T(batch, nodes, context), and to the profiles that other parts start from. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.replay.model import Shape
from bench.rows import Row, median_row, table
from sglang_seer.draft.step_time import StepObservation, StepTimes

BENCH = "steps"
# Fewer steps say nothing: a round of one width has more.
FEWEST = 4
# What no engine can tell of itself, for the simulator: one 400 Gb/s network card.
LINK_BYTES_S = 50e9


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cell:
    """batch: requests. context_tokens: of each request's prompt. nodes: beyond the root."""

    context_tokens: int
    batch: int
    nodes: int

    @property
    def case(self) -> str:
        return f"context {self.context_tokens}, batch {self.batch}, nodes {self.nodes}"


def by_cell(seen: Sequence[StepObservation], *, batch: int, context_tokens: int) -> dict[Cell, list[StepObservation]]:
    """Steps of the whole batch by width; widths with too few of them are left out."""
    found: dict[Cell, list[StepObservation]] = {}
    for step in seen:
        if step.batch == batch:
            cell = Cell(context_tokens=context_tokens, batch=batch, nodes=step.rows // batch - 1)
            found.setdefault(cell, []).append(step)
    return {cell: steps for cell, steps in sorted(found.items()) if len(steps) >= FEWEST}


def typical(steps: Sequence[StepObservation]) -> StepObservation:
    """The lower median by time, which is a step that there was."""
    return sorted(steps, key=lambda step: step.seconds)[(len(steps) - 1) // 2]


def rows(shape: str, cells: dict[Cell, list[StepObservation]]) -> list[Row]:
    return [
        median_row(BENCH, shape, cell.case, "step_ms", [1e3 * step.seconds for step in steps], "ms")
        for cell, steps in cells.items()
    ]


def step_times(cells: dict[Cell, list[StepObservation]]) -> StepTimes:
    """What `step_time_profile` of Seer's configuration takes, once saved."""
    times = StepTimes()
    times.observe([typical(steps) for steps in cells.values()])
    return times


def sim_profile(
    name: str, shape: Shape, cells: dict[Cell, list[StepObservation]], *, capacity_tokens: int, value_bytes: int
) -> dict[str, Any]:
    """What `python -m sglang_seer simulate --profile` takes: the measured points, which it fits."""
    points = [typical(steps) for steps in cells.values()]
    return {
        "name": name,
        "gpus": 1,
        "kv_capacity_tokens": capacity_tokens,
        "points": [{"rows": one.rows, "context": one.context, "seconds": one.seconds} for one in points],
        "kv_bytes_per_token": float(
            2 * value_bytes * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
        ),
        "link_bytes_s": LINK_BYTES_S,
        "source": "measured by `python -m sglang_seer bench steps`; the link is assumed: 50 GB/s",
    }


def curves_table(shape: str, cells: dict[Cell, list[StepObservation]]) -> str:
    """A line a batch and context, a column a width, in milliseconds."""
    widths = sorted({cell.nodes for cell in cells})
    ms = {cell: 1e3 * typical(steps).seconds for cell, steps in cells.items()}
    lines = []
    for context, batch in sorted({(cell.context_tokens, cell.batch) for cell in cells}):
        line = [ms.get(Cell(context_tokens=context, batch=batch, nodes=nodes)) for nodes in widths]
        lines.append([f"{batch} x {context}", *("-" if one is None else f"{one:.2f}" for one in line)])
    columns = ["requests x context", *(f"{nodes} nodes" for nodes in widths)]
    return table(f"Milliseconds a step, {shape}", columns, lines)
