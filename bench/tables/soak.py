"""What lasted: rollouts that are disturbed all the time."""

from __future__ import annotations

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


def table(results: Results) -> str:
    """Counts, and of memory the process that grew most in the calm half."""
    lines = [
        [name, format(row["value"], digits)]
        for metric, (name, digits) in WHAT.items()
        for row in results.rows
        if row["metric"] == metric
    ]
    growth = [row["value"] for row in results.rows if row["metric"] == "memory_slope"]
    lines.append([f"memory of {len(growth)} processes, MiB a minute, the most", f"{max(growth):.2f}"])
    return grid(["", "seen"], lines)
