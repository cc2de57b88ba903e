"""Heat maps of the groups: how long their responses became, and how long they were thought to become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sglang_seer.report.canvas import BINS, DOWN, SECONDS, Chart, Plot, new, span_s
from sglang_seer.report.history import GOOD_ENDS, History
from sglang_seer.report.series import Floats, grid, last_said
from sglang_seer.rollout.events import Assign, Finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_IN = 0.085
# As many group names as fit beside the rows.
MOST_NAMES = 40


def lengths(history: History) -> tuple[list[str], Floats]:
    """Groups, the longest mean first, and [groups, members] their response lengths as they ended; NaN: none ended.

    Responses that were broken off count as not ended.
    """
    ended: dict[str, list[int]] = {group: [] for group, _ in history.submitted}
    asked = dict.fromkeys(ended, 0)
    for group, _ in history.submitted:
        asked[group] += 1
    for one in history.ended:
        if one.finish_reason in GOOD_ENDS:
            ended[one.group].append(one.output_tokens)
    order = sorted(ended, key=lambda group: -float(np.mean(ended[group])) if ended[group] else 0.0)
    table = np.full((len(order), max(asked.values())), np.nan)
    for row, group in enumerate(order):
        table[row, : len(ended[group])] = ended[group]
    return order, table


def estimates(history: History, groups: list[str], times_s: Floats) -> Floats:
    """[groups, times] the estimate of a new response of each group, NaN before the first and once the group is done."""
    said: dict[str, list[tuple[float, float]]] = {group: [] for group in groups}
    left = dict.fromkeys(groups, 0)
    for group, _ in history.submitted:
        left[group] += 1
    over = dict.fromkeys(groups, float("inf"))
    told: list[Assign | Finish] = [*history.assigns, *history.finishes]
    for event in sorted(told, key=lambda event: event.at_s):
        if event.expected_tokens > 0:
            said[event.group].append((event.at_s, event.expected_tokens))
    for finish in history.finishes:
        left[finish.group] -= 1
        if not left[finish.group]:
            over[finish.group] = finish.at_s
    table = np.full((len(groups), len(times_s)), np.nan)
    for row, group in enumerate(groups):
        moments, values = zip(*said[group], strict=True) if said[group] else ((), ())
        table[row] = last_said(moments, values, times_s)
        table[row, times_s > over[group]] = np.nan
    return table


def heat_maps(history: History) -> Chart:
    from matplotlib.colors import LogNorm

    groups, ended = lengths(history)
    edges = grid(0, span_s(history), BINS)
    guessed = estimates(history, groups, (edges[:-1] + edges[1:]) / 2)
    known = np.concatenate((ended.ravel(), guessed.ravel()))
    known = known[known > 0]
    norm = LogNorm(float(known.min()), float(known.max())) if known.size and known.min() < known.max() else None
    figure = new(min(max(2.6, ROW_IN * len(groups) + 1.2), 8.0))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 5))
    rows = np.arange(len(groups) + 1)
    _map(left, np.arange(ended.shape[1] + 1), rows, ended, norm)
    image = _map(right, edges, rows, guessed, norm)
    left.set_title("response lengths")
    left.set_xlabel("samples, as they ended")
    left.set_ylabel("groups, longest mean first")
    left.set_xticks(
        _ticks(ended.shape[1]), [str(place + 1) for place in range(ended.shape[1])][:: _step(ended.shape[1])]
    )
    if len(groups) <= MOST_NAMES:
        left.set_yticks(np.arange(len(groups)) + 0.5, [group[:12] for group in groups], fontsize=6)
    else:
        left.set_yticks([])
    left.invert_yaxis()
    right.set_title("estimate of a new response, until the group is done")
    right.set_xlabel(SECONDS)
    if history.tail_s is not None:
        right.axvline(history.tail_s, color=DOWN, linestyle="--", linewidth=1.2, label="tail begins")
        right.legend(loc="lower right", fontsize=7, frameon=True)
    bar = figure.colorbar(image, ax=[left, right], label="response tokens", pad=0.01)
    bar.ax.minorticks_off()
    _plain_ticks(bar, known)
    return Chart(
        "groups",
        "Lengths of the groups, and what was believed of them",
        "One row a group; both maps share rows and colours. Left: what came out; blank cells did not end. Right: what "
        "the scheduler believed over time. A good estimate takes the colours of its row soon.",
        figure,
        # A heat map has too many rows to be read out at one time.
        [
            Plot(
                right,
                (edges[:-1] + edges[1:]) / 2,
                {"groups unfinished": (~np.isnan(guessed)).sum(0).astype(np.float64)},
            )
        ],
    )


def _map(axes: Axes, columns: Any, rows: Any, values: Floats, norm: Any) -> Any:
    axes.set_facecolor("#eeeeee")
    return axes.pcolormesh(columns, rows, values, cmap="viridis", norm=norm, rasterized=True)


def _step(columns: int) -> int:
    return max(1, -(-columns // 16))


def _ticks(columns: int) -> list[float]:
    return [place + 0.5 for place in range(0, columns, _step(columns))]


def _plain_ticks(bar: Any, known: Floats) -> None:
    """Round numbers instead of powers of ten."""
    if not known.size or known.min() == known.max():
        return
    steps = [base * 10**power for power in range(7) for base in (1, 2, 5)]
    ticks = [step for step in steps if known.min() <= step <= known.max()]
    if len(ticks) >= 2:
        bar.set_ticks(ticks, labels=[f"{tick:,}" for tick in ticks])
