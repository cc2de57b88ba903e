"""Charts of chunks: why they went where and when, who moved, and what drafts were worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sglang_seer.report.canvas import (
    BASELINE,
    BINS,
    HATCHES,
    SECONDS,
    SERIES,
    Chart,
    Plot,
    legend,
    new,
    over_time,
    short,
    span_s,
    whole_numbers,
)
from sglang_seer.report.history import History
from sglang_seer.report.picture import RUNNING
from sglang_seer.report.series import Floats, count, flow, grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Bars must be wide enough for their hatch.
WIDE_BINS = 60
# Larger matrices hold no numbers.
MOST_NUMBERS = 12
# Fewer verification steps in a bin say nothing.
FEWEST_STEPS = 20


def kind(reason: str) -> str:
    """What a reason begins with: `longest first: 900 tokens expected` is of the kind `longest first`."""
    return reason.split(":", 1)[0].strip() or "not said"


def reasons(history: History) -> dict[str, list[float]]:
    """Times of the decisions by kind of reason, the commonest first."""
    found: dict[str, list[float]] = {}
    for assign in history.assigns:
        found.setdefault(kind(assign.reason), []).append(assign.at_s)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def decisions(history: History) -> Chart | None:
    """None where no chunk was started."""
    if not history.assigns:
        return None
    figure, end_s = new(2.9), span_s(history)
    axes = figure.subplots()
    edges = grid(0, end_s, WIDE_BINS)
    shown = {name: count(times, edges).astype(np.float64) for name, times in reasons(history).items()}
    over_time(axes, history, end_s, label=True)
    _stacked(axes, edges, shown)
    whole_numbers(axes.yaxis)
    axes.set_ylabel(f"chunks started\nin {edges[1] - edges[0]:.2g} s")
    axes.set_xlabel(SECONDS)
    legend(figure, axes)
    return Chart(
        "decisions",
        "Why chunks were started",
        "Each started chunk by the reason that put its request first. Probes come early, where nothing is known of a "
        "group; then the group expected to take longest.",
        figure,
        [Plot(axes, (edges[:-1] + edges[1:]) / 2, shown)],
    )


def migrations(history: History) -> Chart | None:
    """None where nothing moved."""
    if not history.migrations:
        return None
    figure, end_s = new(3.4), span_s(history)
    left, right = figure.subplots(1, 2, width_ratios=(5, 3))
    edges = grid(0, end_s, WIDE_BINS)
    causes = Counter(move.cause for move in history.migrations)
    shown = {
        cause: count([move.at_s for move in history.migrations if move.cause == cause], edges).astype(np.float64)
        for cause, _ in sorted(causes.items(), key=lambda item: (-item[1], item[0]))
    }
    over_time(left, history, end_s, label=True)
    _stacked(left, edges, shown)
    left.set_ylabel(f"requests that moved\nin {edges[1] - edges[0]:.2g} s")
    left.set_xlabel(SECONDS)
    names = history.engines
    table = np.zeros((len(names), len(names)))
    places = {name: place for place, name in enumerate(names)}
    for move in history.migrations:
        if move.source in places:
            table[places[move.source], places[move.target]] += 1
    image = right.imshow(table, cmap="cividis", vmin=0)
    few = len(names) <= MOST_NUMBERS
    right.set_xticks(range(len(names)) if few else [], [_tail_name(name) for name in names] if few else [], rotation=90)
    right.set_yticks(range(len(names)) if few else [], [_tail_name(name) for name in names] if few else [])
    if few:
        for row, line in enumerate(table):
            for column, moved in enumerate(line):
                dark = moved < 0.6 * table.max()
                colour = "white" if dark else "black"
                right.text(column, row, f"{moved:,.0f}" if moved else "", ha="center", va="center", color=colour)
    right.set_xlabel("to engine")
    right.set_ylabel("from engine")
    right.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=right, label="requests", pad=0.02)
    whole_numbers(bar.ax.yaxis)
    whole_numbers(left.yaxis)
    legend(figure, left)
    far = sum(assign.pull_from is not None for assign in history.assigns)
    pulled = sum(chunk.pulled_tokens for chunk in history.chunks)
    return Chart(
        "migrations",
        "Migrations",
        f"{len(history.migrations):,} of {len(history.assigns):,} chunks went on on another engine than the chunk "
        f"before; {far:,} left a long cached prefix behind. {pulled:,} tokens came out of a shared KV store.",
        figure,
        [Plot(left, (edges[:-1] + edges[1:]) / 2, shown)],
    )


def _tail_name(engine: str) -> str:
    """The port, which tells engines of one machine apart; else the name."""
    name = short(engine)
    return name.rsplit(":", 1)[-1] if name.startswith(("127.", "localhost")) else name


def acceptance(history: History, edges_s: Floats) -> Floats:
    """[bins] tokens a verification step, bonus included; NaN where hardly any step was."""
    chunks = [chunk for chunk in history.chunks if chunk.verify_steps]
    begins, ends = [chunk.began_s for chunk in chunks], [chunk.at_s for chunk in chunks]
    tokens = flow(begins, ends, [chunk.tokens for chunk in chunks], edges_s)
    steps = flow(begins, ends, [chunk.verify_steps for chunk in chunks], edges_s)
    return np.where(steps >= FEWEST_STEPS, tokens / np.maximum(steps, 1e-9), np.nan)


def acceptance_over_time(history: History, baseline: History | None = None) -> Chart | None:
    """None where no run verified drafts."""
    end_s = span_s(history, baseline)
    edges = grid(0, end_s, BINS)
    shown = {}
    for name, run in (("acceptance length", history), ("acceptance length of the baseline", baseline)):
        if run is not None and any(chunk.verify_steps for chunk in run.chunks):
            shown[name] = acceptance(run, edges)
    if not shown:
        return None
    figure = new(2.6)
    axes = figure.subplots()
    over_time(axes, history, end_s, label=True)
    for name, values in shown.items():
        of_run = name == "acceptance length"
        axes.stairs(
            values, edges, baseline=None, color=RUNNING if of_run else BASELINE,
            linestyle="-" if of_run else "--", linewidth=1.5, label=name,
        )  # fmt: skip
    axes.axhline(1.0, color="#999999", linewidth=0.8, linestyle=":", label="plain decoding")
    axes.set_ylabel("tokens a verification step")
    axes.set_xlabel(SECONDS)
    axes.set_ylim(bottom=0)
    legend(figure, axes)
    return Chart(
        "acceptance",
        "Acceptance",
        "Tokens that one forward pass of the target yields, bonus token included, over all engines. It rises as "
        "siblings finish and become drafts.",
        figure,
        [Plot(axes, (edges[:-1] + edges[1:]) / 2, shown)],
    )


def _stacked(axes: Axes, edges: Floats, parts: Mapping[str, Floats]) -> None:
    below = np.zeros(len(edges) - 1)
    for place, (name, values) in enumerate(parts.items()):
        style = place % len(SERIES)
        axes.stairs(
            below + values, edges, baseline=below, fill=True, facecolor=SERIES[style], edgecolor="white",
            linewidth=0.3, hatch=HATCHES[style], label=f"{name} ({values.sum():,.0f})",
        )  # fmt: skip
        below = below + values
