"""The simulator beside CPU engines."""

from __future__ import annotations

from bench.rows import grid
from bench.tables.results import Results

COLUMNS = ("makespans", "engines s", "simulated s", "simulated / real", "same order of the two")


def table(results: Results) -> str:
    pairs = dict.fromkeys((row["case"], row["system"]) for row in results.rows if row["system"] != "both")
    lines = [
        [
            f"{case}, {side}",
            results.ranged(side, case, "seconds", ".1f"),
            results.ranged(side, case, "simulated_seconds", ".1f"),
            results.ranged(side, case, "simulated_over_real", ".2f"),
            "yes" if results.value("both", case, "same_order") else "no",
        ]
        for case, side in pairs
    ]
    return grid(COLUMNS, lines)
