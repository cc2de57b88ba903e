"""The picture of both rollouts: requests running and waiting, KV in use, the tail shaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sglang_seer.report.figures import side_figures, tail_start_s
from sglang_seer.report.kept import SIDES, Comparison, Run
from sglang_seer.rollout.records import Load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {"stock": "stock SGLang", "seer": "Seer"}
RUNNING, WAITING, KV, TAIL = "#2a6fb0", "#c9d3df", "#d9822b", "#f6dcc4"


def require_matplotlib() -> None:
    """Raises ValueError that says how to install it where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(f"a picture needs matplotlib ({error}): pip install 'sglang-seer[report]'") from error


def draw(comparison: Comparison, path: Path) -> None:
    """Writes the picture; the type follows the name's ending. Both sides share their axes.

    Raises ValueError for a file that cannot be written or an ending that matplotlib does not know.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    rows = figure.subplots(2, 1, sharex=True, sharey=True)
    for side, axes in zip(SIDES, rows, strict=True):
        _draw_side(axes, TITLES[side], comparison.runs(side), comparison.loads[side])
    rows[-1].set_xlabel("seconds")
    handles, labels = rows[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; wanted a file to write the picture to") from error


def _draw_side(axes: "Axes", title: str, runs: Sequence[Run], loads: Sequence[Load]) -> None:
    end_s = max(run.finished_s for run in runs)
    times, running, waiting = concurrency(runs, loads)
    axes.axvspan(tail_start_s(runs), end_s, color=TAIL, label="tail: only the last 10% run", zorder=0)
    axes.stackplot(
        times, running, waiting, colors=[RUNNING, WAITING], labels=["requests running", "requests waiting"], step="post"
    )
    axes.set_ylabel("requests")
    kv = axes.twinx()
    share = [100 * load.used_tokens / load.capacity_tokens if load.capacity_tokens else 0.0 for load in loads]
    kv.plot([load.at_s for load in loads], share, color=KV, linewidth=1.2)
    axes.plot([], [], color=KV, label="KV in use")
    kv.set_ylim(0, 105)
    kv.set_ylabel("KV in use (%)", color=KV)
    numbers = side_figures(runs)
    pace = f"{numbers['seconds']:.1f} s, {numbers['throughput']:,.0f} tokens/s"
    axes.set_title(f"{title}: {pace}, tail {numbers['tail_seconds']:.1f} s", loc="left", fontsize=10)


def concurrency(runs: Sequence[Run], loads: Sequence[Load]) -> tuple[list[float], list[int], list[int]]:
    """Times, requests running, requests waiting (all unfinished ones that do not run).

    What is unfinished is exact, from the samples; how many of them run is the engine's last word at that time.
    """
    start_s, end_s = min(run.submitted_s for run in runs), max(run.finished_s for run in runs)
    times = sorted({start_s, end_s, *(run.finished_s for run in runs), *(load.at_s for load in loads)})
    times = [time for time in times if start_s <= time <= end_s]
    finished = sorted(run.finished_s for run in runs)
    running, waiting = [], []
    done = seen = engine_running = 0
    for time in times:
        while done < len(finished) and finished[done] <= time:
            done += 1
        while seen < len(loads) and loads[seen].at_s <= time:
            engine_running = loads[seen].running
            seen += 1
        open_requests = len(finished) - done
        running.append(min(engine_running, open_requests))
        waiting.append(open_requests - running[-1])
    return times, running, waiting
