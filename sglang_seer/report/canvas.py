"""What all charts share: colours, axes in seconds, and the way into a page or a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sglang_seer.report.history import History
from sglang_seer.report.picture import TAIL
from sglang_seer.report.series import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH_IN = 10.0
DPI = 150
# Okabe and Ito's, told apart by every kind of colour vision; hatches besides where areas touch.
SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "")
BASELINE = "#444444"
DOWN = "#b04a5a"
SECONDS = "time since the first request (s)"
BINS = 150
RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
}


class Plot(NamedTuple):
    """Axes over time, and what a reader finds there at each of the times."""

    axes: Axes
    times_s: Floats
    values: Mapping[str, Floats]


@dataclass(slots=True)
class Chart:
    """A drawn figure. name: of its file. caption: how to read it."""

    name: str
    title: str
    caption: str
    figure: Figure
    plots: list[Plot] = field(default_factory=list)

    def svg(self) -> str:
        """An <svg> element whose ids are its own, so that many can be in one page."""
        with styled(self.name):
            text = StringIO()
            self.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", svg)

    def png(self, path: Path) -> None:
        """Raises OSError where it cannot be written."""
        with styled(self.name):
            self.figure.savefig(path, format="png", dpi=DPI)

    def readouts(self) -> list[dict[str, Any]]:
        """For each axes over time: where they are in the figure (shares of its width and height), and their values."""
        self.figure.draw_without_rendering()
        found = []
        for axes, times, values in self.plots:
            box = axes.get_position()
            start_s, end_s = axes.get_xlim()
            found.append(
                {
                    "left": round(box.x0, 5),
                    "right": round(box.x1, 5),
                    "top": round(1 - box.y1, 5),
                    "bottom": round(1 - box.y0, 5),
                    "start": start_s,
                    "end": end_s,
                    "times": [round(float(time), 4) for time in times],
                    "values": {name: [_number(value) for value in series] for name, series in values.items()},
                }
            )
        return found


def _number(value: float) -> float | None:
    # JSON knows no NaN.
    return round(float(value), 3) if value == value else None


@contextmanager
def styled(name: str = "seer") -> Iterator[None]:
    """matplotlib's settings for these charts. name: makes the ids in an SVG the same in every run."""
    import matplotlib

    with matplotlib.rc_context(RC | {"svg.hashsalt": name}):
        yield


def new(height_in: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def span_s(history: History, baseline: History | None = None) -> float:
    """The time that the axes show. A rollout that took no time has an axis all the same."""
    return max(history.end_s, baseline.end_s if baseline is not None else 0.0) or 1.0


def whole_numbers(axis: Axis) -> None:
    """Ticks for counts."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def over_time(axes: Axes, history: History, end_s: float, *, label: bool = False) -> None:
    """Seconds since the first request; the tail shaded."""
    axes.set_xlim(0, end_s)
    if history.tail_s is not None:
        name = "tail: only the last 10% of the samples run" if label else None
        axes.axvspan(history.tail_s, history.end_s, color=TAIL, label=name, zorder=0, linewidth=0)


def legend(figure: Figure, *axes: Axes) -> None:
    """One legend for all, below; each name once."""
    entries: dict[str, Any] = {}
    for one in axes:
        handles, labels = one.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            entries.setdefault(label, handle)
    if entries:
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=min(len(entries), 5))


def short(engine: str) -> str:
    """An engine's URL without its scheme."""
    return engine.split("://", 1)[-1]
