"""Pictures of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from bench.draft.drafter import SHAPES
from bench.draft.figures import Replayed
from bench.rows import Row

COLOURS = {"seer": "#1b6ca8", "arctic": "#d1495b", "sglang_ngram": "#edae49"}


def draw(folder: Path, replays: Sequence[Replayed], rows: Sequence[Row]) -> list[Path]:
    """Acceptance by set, calibration of our index, draft time: those of them that were measured."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    if replays:
        drawn += [_acceptance(folder, replays), _calibration(folder, replays)]
    if any(row.metric == "draft_us_per_request" for row in rows):
        drawn.append(_draft_time(folder, rows))
    return drawn


def _acceptance(folder: Path, replays: Sequence[Replayed]) -> Path:
    """One panel a shape; of each system the configuration that is best on the set (of ours the first)."""
    sets = list(dict.fromkeys(one.set for one in replays))
    shapes = [shape for shape in SHAPES if any(one.shape == shape for one in replays)]
    figure, panels = plt.subplots(len(shapes), 1, figsize=(10, 2.4 * len(shapes)), sharex=True, squeeze=False)
    systems = list(dict.fromkeys(one.config.system for one in replays))
    for panel, shape in zip(panels[:, 0], shapes, strict=True):
        for place, system in enumerate(systems):
            heights = []
            for name in sets:
                alike = [o for o in replays if (o.set, o.shape, o.config.system) == (name, shape, system)]
                values = [one.outcome.total.acceptance for one in alike]
                heights.append((values[0] if system == "seer" else max(values)) if values else float("nan"))
            x = [number + (place - (len(systems) - 1) / 2) * 0.27 for number in range(len(sets))]
            panel.bar(x, heights, 0.25, label=system, color=COLOURS.get(system))
        panel.set_ylim(bottom=1)
        panel.set_title(shape.name, loc="left", fontsize=10)
        panel.set_ylabel("tokens a step")
    panels[0, 0].legend(ncols=len(systems), fontsize=8, loc="upper right")
    panels[-1, 0].set_xticks(range(len(sets)), sets, fontsize=7, rotation=15, ha="right")
    return _save(figure, folder / "acceptance.png")


def _calibration(folder: Path, replays: Sequence[Replayed]) -> Path:
    ours = [one for one in replays if one.config.system == "seer" and not one.shape.chain]
    shape = ours[0].shape
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.6))
    for panel, kind in zip(panels, ("conditional", "path"), strict=True):
        panel.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        for one in (one for one in ours if one.shape == shape):
            curve = getattr(one.outcome, kind).curve()
            x, y = [bin_["predicted"] for bin_ in curve], [bin_["observed"] for bin_ in curve]
            panel.plot(x, y, marker="o", markersize=3, linewidth=1, label=one.set)
        panel.set_title(f"{kind} probability, {shape.name}", loc="left", fontsize=10)
        panel.set_xlabel("predicted")
        panel.set_ylabel("observed")
    panels[0].legend(fontsize=6)
    return _save(figure, folder / "calibration.png")


def _draft_time(folder: Path, rows: Sequence[Row]) -> Path:
    kept = [row for row in rows if row.metric == "draft_us_per_request"]
    sizes = list(dict.fromkeys(row.case.split("/")[0] for row in kept))
    figure, panels = plt.subplots(len(sizes), 1, figsize=(10, 3.6 * len(sizes)), squeeze=False)
    order = [shape.name for shape in SHAPES]
    for panel, size in zip(panels[:, 0], sizes, strict=True):
        alike = [row for row in kept if row.case.split("/")[0] == size]
        alike.sort(key=lambda row: (order.index(row.case.split("/")[1]), row.value))
        names = [f"{row.case.split('/')[1]}  {row.system}/{row.case.split('/')[2]}" for row in alike]
        panel.barh(names, [row.value for row in alike], color=[COLOURS.get(row.system) for row in alike])
        panel.invert_yaxis()
        panel.tick_params(labelsize=7)
        panel.set_title(f"{size}: CPU microseconds a request", loc="left", fontsize=10)
    return _save(figure, folder / "draft_time.png")


def _save(figure: Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
