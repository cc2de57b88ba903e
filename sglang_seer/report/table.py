"""The figures as a table of text."""

from collections.abc import Mapping
from typing import Any

# name shown, key in the figures, format, whether a ratio says something
ROWS = (
    ("output tokens", "tokens", "{:,.0f}", False),
    ("seconds", "seconds", "{:,.1f}", True),
    ("tokens/s", "throughput", "{:,.0f}", True),
    ("tail seconds (only the last 10% run)", "tail_seconds", "{:,.1f}", True),
    ("acceptance length (bonus included)", "acceptance_length", "{:.2f}", False),
    ("retractions", "retractions", "{:,.0f}", False),
    ("mean reward", "mean_reward", "{:.3f}", False),
)


def table(figures: dict[str, Any], buses: Mapping[str, str] | None = None) -> str:
    """Stock, Seer and their ratio, one figure a row, and the count of identical samples below.

    buses: what ways to share text are called, where the figures compare them.
    """
    lines = cells(figures, buses)
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    text = [
        f"{name:<{widths[0]}}  {stock:>{widths[1]}}  {seer:>{widths[2]}}  {ratio:>{widths[3]}}".rstrip()
        for name, stock, seer, ratio in lines
    ]
    text.insert(1, "-" * max(map(len, text)))
    text.append(f"samples identical to stock: {figures['samples_identical']} of {figures['samples_total']}")
    for bus, count in figures.get("identical_by_bus", {}).items():
        text.append(f"  {(buses or {}).get(bus, bus)}: {count} of {figures['samples_total']}")
    return "\n".join(text)


def cells(figures: dict[str, Any], buses: Mapping[str, str] | None = None) -> list[tuple[str, str, str, str]]:
    """The table's lines: the figure's name, stock, Seer and their ratio; the head first."""
    lines = [("", "stock", "Seer", "ratio")]
    for name, key, shape, has_ratio in ROWS:
        stock, seer = figures[key + "_stock"], figures[key]
        ratio = f"{seer / stock:.2f}x" if has_ratio and stock else ""
        lines.append((name, _cell(stock, shape), _cell(seer, shape), ratio))
        if key == "acceptance_length":
            for bus, length in figures.get("acceptance_by_bus", {}).items():
                lines.append((f"  {(buses or {}).get(bus, bus)}", "", _cell(length, shape), ""))
    return lines


def _cell(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)
