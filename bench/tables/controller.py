"""The controller: what a load costs it, what chunks cost, and how soon it recovers from an engine's death."""

from __future__ import annotations

from collections.abc import Mapping

from bench.rows import grid
from bench.tables.results import Results, lowest_and_highest

LOAD = {
    "chunks_a_second": "chunks a second",
    "cpu_share": "cores of the controller",
    "cpu_a_chunk": "CPU a chunk",
    "cpu_a_pass": "CPU a pass over the buffer",
    "passes_a_second": "passes a second",
    "in_flight": "requests in flight",
    "peak_memory": "peak memory",
    "engines_cpu_share": "cores of the stand-in engines",
}
RECOVERY = {
    "first_s": "until the first of its requests ran elsewhere",
    "last_s": "until the last did",
    "requests": "requests that the killed engine had",
    "again_tokens": "most tokens of a request computed again",
}
CHUNKS = (
    ("whole responses", "whole", "seconds", "s"),
    ("in chunks", "chunks", "seconds", "s"),
    ("chunks over whole", "chunks", "overhead", "%"),
    ("whole responses, CPU time of the engine", "whole", "cpu_seconds", "s"),
    ("in chunks, CPU time", "chunks", "cpu_seconds", "s"),
    ("chunks over whole, CPU time", "chunks", "cpu_overhead", "%"),
)


def load(results: Results) -> str:
    return _table(results, LOAD)


def recovery(results: Results) -> str:
    return _table(results, RECOVERY)


def chunks(results: Results) -> str:
    case = results.rows[0]["case"]
    lines = []
    for name, system, metric, unit in CHUNKS:
        values = (results.value(system, case, metric), *results.range(system, case, metric))
        lines.append([name, *(_number(value, unit) for value in values)])
    return grid([case, "median", "lowest", "highest"], lines)


def _table(results: Results, names: Mapping[str, str]) -> str:
    cases = list(dict.fromkeys(row["case"] for row in results.rows))
    lines = [
        [names[row["metric"]], *(_number(value, row["unit"]) for value in (row["value"], *lowest_and_highest(row)))]
        for row in results.rows
        if row["metric"] in names
    ]
    return grid([" / ".join(cases), "median", "lowest", "highest"], lines)


def _number(value: float, unit: str) -> str:
    shown = f"{value:,.0f}" if value >= 100 or unit in ("requests", "tokens") else f"{value:#.3g}"
    return shown if unit in ("1", "1/s", "requests", "tokens", "cores") else f"{shown} {unit}"
