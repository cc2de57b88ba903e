"""What the plugin costs a step where it is off or only watches."""

from __future__ import annotations

from bench.observe.command import shown
from bench.rows import Row, grid
from bench.tables.results import Results


def table(results: Results) -> str:
    return grid(*shown([Row(**row) for row in results.rows]))
