"""What lasted: rollouts that are disturbed all the time, and thousands of requests at once."""

from __future__ import annotations

from collections.abc import Mapping

from bench.rows import grid
from bench.tables.results import Results

WHAT = {
    "minutes": ("two engines, minutes", ",.0f"),
    "rollouts": ("rollouts to their end", ",.0f"),
    "samples_as_wanted": ("samples, each once and that of an undisturbed rollout", ",.0f"),
    "kills": ("engines killed", ",.0f"),
    "weight_updates": ("weight updates", ",.0f"),
    "chunks_broken": ("chunks broken off, gone on with elsewhere", ",.0f"),
    "text_received": ("tokens that came over the bus", ",.0f"),
}
QUEUE = {
    "returned": ("requests that returned whole", ",.0f"),
    "most_waiting": ("most that waited", ",.0f"),
    "mean_pass": ("a scheduling pass on average, ms", ".1f"),
    "longest_pass": ("the longest, which takes in thousands of new requests, ms", ",.0f"),
    "memory_left": ("memory that the last wave left behind, MiB", ".1f"),
    "kv_left": ("KV slots in use afterwards", ",.0f"),
}


def table(results: Results) -> str:
    """Counts, and of memory the process that grew most in the calm half."""
    growth = [row["value"] for row in results.rows if row["metric"] == "memory_slope"]
    return grid(
        ["", "seen"],
        [*_lines(results, WHAT), [f"memory of {len(growth)} processes, MiB a minute, the most", f"{max(growth):.2f}"]],
    )


def queue(results: Results) -> str:
    return grid([results.rows[0]["case"], "seen"], _lines(results, QUEUE))


def _lines(results: Results, wanted: Mapping[str, tuple[str, str]]) -> list[list[str]]:
    return [
        [name, format(row["value"], digits)]
        for metric, (name, digits) in wanted.items()
        for row in results.rows
        if row["metric"] == metric
    ]
