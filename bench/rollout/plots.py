"""Bars of throughput and tail by system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from bench.rollout.systems import SYSTEMS
from bench.rows import Row

STOCK, OURS = "#888888", "#00798c"


def draw(folder: Path, rows: Sequence[Row], case: str) -> Path:
    """Writes rollout_CASE.png; whiskers reach from the lowest to the highest repetition."""
    folder.mkdir(parents=True, exist_ok=True)
    figure, panels = plt.subplots(1, 2, figsize=(11, 0.4 * len({row.system for row in rows}) + 1.2), sharey=True)
    for panel, metric, title in zip(
        panels,
        ("throughput_over_fcfs", "tail_over_fcfs"),
        ("throughput over stock fcfs", "tail time over stock fcfs"),
        strict=True,
    ):
        shown = [row for row in rows if row.metric == metric]
        places = [-number for number in range(len(shown))]
        values = [row.value for row in shown]
        spreads = [row.spread or {"min": row.value, "max": row.value} for row in shown]
        reach = [
            [value - spread["min"] for value, spread in zip(values, spreads, strict=True)],
            [spread["max"] - value for value, spread in zip(values, spreads, strict=True)],
        ]
        colours = [STOCK if SYSTEMS[row.system].stock else OURS for row in shown]
        panel.barh(places, values, xerr=reach, color=colours, error_kw={"linewidth": 0.8})
        panel.axvline(1.0, color="black", linewidth=0.6)
        panel.set_yticks(places, [SYSTEMS[row.system].what for row in shown])
        panel.set_title(title, loc="left", fontsize=10)
    figure.tight_layout()
    path = folder / f"rollout_{case}.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
