"""The demo's figures: stock SGLang beside Seer."""

from __future__ import annotations

from bench.rows import grid
from bench.tables.results import Results
from sglang_seer.demo.buses import TITLES
from sglang_seer.report.table import cells


def table(results: Results) -> str:
    figures = dict(results.document)
    # What is indented belongs to the acceptance above it.
    lines = [[name.replace("  ", "acceptance length, ", 1), *others] for name, *others in cells(figures, TITLES)[1:]]
    total = figures["samples_total"]
    lines.append(["samples identical to stock", "", f"{figures['samples_identical']} of {total}", ""])
    for bus, count in figures.get("identical_by_bus", {}).items():
        lines.append([f"samples identical, {TITLES.get(bus, bus)}", "", f"{count} of {total}", ""])
    return grid(["", "stock", "Seer", "ratio"], lines)
