"""Charts of load: requests and tokens of the whole rollout, and each engine's requests and KV."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sglang_seer.report.canvas import (
    BASELINE,
    BINS,
    DOWN,
    SECONDS,
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
from sglang_seer.report.picture import KV, RUNNING, WAITING
from sglang_seer.report.series import Floats, flow, grid, in_progress, last_said
from sglang_seer.rollout.events import Engine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More engines than this are rows of a heat map.
MOST_PANELS = 8
PANEL_IN = 1.35
POINTS = 600


def unfinished(history: History, times_s: Floats) -> Floats:
    """[times] requests that came and have not ended."""
    came = [request.at_s for request in history.submitted.values()]
    return in_progress(came, [one.finished_s for one in history.ended], times_s).astype(np.float64)


def running(history: History, times_s: Floats, engine: str | None = None) -> Floats:
    """[times] requests with a chunk on an engine, or on this one."""
    # A chunk that has not ended by the end of the file is in no line of it, but its assignment is.
    chunks = [chunk for chunk in history.chunks if engine in (None, chunk.engine)]
    begun = [assign.at_s for assign in history.assigns if engine in (None, assign.engine)]
    return in_progress(begun, [chunk.at_s for chunk in chunks], times_s).astype(np.float64)


def requests(history: History, baseline: History | None = None) -> Chart:
    figure, end_s = new(4.6), span_s(history, baseline)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    times = np.linspace(0, end_s, POINTS)
    there, on_engines = unfinished(history, times), running(history, times)
    on_engines = np.minimum(on_engines, there)
    over_time(top, history, end_s, label=True)
    over_time(bottom, history, end_s)
    top.stackplot(
        times, on_engines, there - on_engines, colors=[RUNNING, WAITING], labels=["running", "waiting"], step="post"
    )
    edges = grid(0, end_s, BINS)
    middles = (edges[:-1] + edges[1:]) / 2
    paces = {"tokens/s": pace(history, edges)}
    bottom.stairs(paces["tokens/s"], edges, color=RUNNING, linewidth=1.4)
    shown = {"running": on_engines, "waiting": there - on_engines}
    if baseline is not None:
        before = unfinished(baseline, times)
        top.step(times, before, where="post", color=BASELINE, linestyle="--", label="baseline, running and waiting")
        paces["tokens/s of the baseline"] = pace(baseline, edges)
        bottom.stairs(paces["tokens/s of the baseline"], edges, color=BASELINE, linestyle="--")
        shown["unfinished in the baseline"] = before
    top.set_ylabel("requests")
    top.set_ylim(bottom=0)
    bottom.set_ylabel("output tokens/s")
    bottom.set_ylim(bottom=0)
    bottom.set_xlabel(SECONDS)
    whole_numbers(top.yaxis)
    whole_numbers(bottom.yaxis)
    legend(figure, top)
    return Chart(
        "requests",
        "Requests and throughput",
        "Requests that run on an engine or wait for one, above; tokens generated, each chunk spread evenly over its "
        "time, below. A rollout is over when its last sample is: the shaded tail is where engines are hardly used.",
        figure,
        [Plot(top, times, shown), Plot(bottom, middles, paces)],
    )


def pace(history: History, edges_s: Floats) -> Floats:
    """[bins] output tokens a second."""
    chunks = history.chunks
    tokens = flow([c.began_s for c in chunks], [c.at_s for c in chunks], [c.tokens for c in chunks], edges_s)
    return tokens / np.diff(edges_s)


def kv_share(history: History, engine: str, times_s: Floats) -> Floats:
    """[times] per cent of the engine's KV slots in use, NaN while it was down or had not said."""
    loads = [load for load in history.loads[engine] if load.capacity_tokens]
    shares = [100 * load.used_tokens / load.capacity_tokens for load in loads]
    return without_down(history, engine, times_s, last_said([load.at_s for load in loads], shares, times_s))


def queued(history: History, engine: str, times_s: Floats) -> Floats:
    """[times] requests that wait at the engine itself, 0 where it did not say."""
    loads = history.loads[engine]
    said = last_said([load.at_s for load in loads], [load.waiting for load in loads], times_s)
    return np.nan_to_num(without_down(history, engine, times_s, said))


def without_down(history: History, engine: str, times_s: Floats, values: Floats) -> Floats:
    values = values.copy()
    for since_s, until_s in history.down(engine):
        values[(times_s >= since_s) & (times_s < until_s)] = np.nan
    return values


def engines(history: History) -> Chart | None:
    """None where the run tells of no engine."""
    if not history.engines:
        return None
    return _panels(history) if len(history.engines) <= MOST_PANELS else _heat(history)


def _panels(history: History) -> Chart:
    from matplotlib.patheffects import withStroke

    count, end_s = len(history.engines), span_s(history)
    figure = new(PANEL_IN * count + 0.9)
    rows = figure.subplots(count, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    times = np.linspace(0, end_s, POINTS)
    plots: list[Plot] = []
    kv_axes: list[Axes] = []
    for axes, engine in zip(rows, history.engines, strict=True):
        over_time(axes, history, end_s, label=True)
        here, kv = running(history, times, engine), kv_share(history, engine, times)
        # What waits at the engine is of ours too: it is on its way there, but does not run.
        behind = np.minimum(queued(history, engine, times), here)
        axes.stackplot(
            times, here - behind, behind, colors=[RUNNING, WAITING], labels=["running", "waiting there"], step="post"
        )
        for since_s, until_s in history.down(engine):
            axes.axvspan(since_s, until_s, facecolor="none", edgecolor=DOWN, hatch="////", linewidth=0, label="down")
        right = axes.twinx()
        kv_axes.append(right)
        halo = [withStroke(linewidth=3.0, foreground="white")]
        right.step(times, kv, where="post", color=KV, linewidth=1.4, label="KV in use", path_effects=halo)
        right.spines["right"].set_visible(True)
        right.set_ylim(0, 105)
        right.set_ylabel("KV (%)", color=KV)
        right.tick_params(axis="y", colors=KV)
        axes.set_ylabel("requests")
        axes.set_title(_title(history, engine))
        plots.append(Plot(axes, times, {"running": here - behind, "waiting there": behind, "KV %": kv}))
    rows[0].set_ylim(bottom=0)
    whole_numbers(rows[0].yaxis)
    rows[-1].set_xlabel(SECONDS)
    legend(figure, *rows, *kv_axes)
    return Chart("engines", "Engines", _CAPTION, figure, plots)


def _title(history: History, engine: str) -> str:
    chunks = [chunk for chunk in history.chunks if chunk.engine == engine]
    said = f"{short(engine)}: {len(chunks):,} chunks, {sum(chunk.tokens for chunk in chunks):,} tokens"
    gone = [f"{state.state} at {state.at_s:.1f} s" for state in history.states if _left(state, engine)]
    return "; ".join([said, *gone])


def _left(state: Engine, engine: str) -> bool:
    return state.engine == engine and state.state != "up"


def _heat(history: History) -> Chart:
    count, end_s = len(history.engines), span_s(history)
    figure = new(2 * min(max(1.4, 0.12 * count), 5.0) + 1.2)
    top, bottom = figure.subplots(2, 1, sharex=True)
    edges = grid(0, end_s, BINS)
    middles = (edges[:-1] + edges[1:]) / 2
    here = np.array([running(history, middles, engine) for engine in history.engines])
    kv = np.array([kv_share(history, engine, middles) for engine in history.engines])
    _rows(top, edges, here, "requests on each engine", "requests", None)
    _rows(bottom, edges, kv, "KV in use on each engine (blank: not known, or down)", "KV in use (%)", 100.0)
    for axes in (top, bottom):
        axes.set_ylabel("engine, as listed below")
        if history.tail_s is not None:
            axes.axvline(history.tail_s, color="white", linewidth=2.5)
            axes.axvline(history.tail_s, color=DOWN, linewidth=1.2, linestyle="--", label="tail begins")
    bottom.set_xlabel(SECONDS)
    legend(figure, top)
    spread = {"fewest": here.min(0), "mean": here.mean(0), "most": here.max(0)}
    full = {"KV %, lowest": np.nan_to_num(kv).min(0), "highest": np.nan_to_num(kv).max(0)}
    return Chart("engines", "Engines", _CAPTION, figure, [Plot(top, middles, spread), Plot(bottom, middles, full)])


def _rows(axes: Axes, edges: Floats, values: Floats, title: str, label: str, most: float | None) -> None:
    image = axes.pcolormesh(
        edges, np.arange(len(values) + 1), values, cmap="cividis", vmin=0, vmax=most, rasterized=True
    )
    axes.invert_yaxis()
    axes.set_title(title)
    bar = axes.figure.colorbar(image, ax=axes, label=label, pad=0.01)
    whole_numbers(bar.ax.yaxis)


_CAPTION = (
    "Requests of this rollout on each engine, and the share of its KV slots in use as it said itself. Even rows mean "
    "that placement balanced the load."
)
