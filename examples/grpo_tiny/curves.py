"""The picture of a training: reward, loss, and how long the rollouts took so far."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from steps import Step, seconds

from sglang_seer.report.picture import TITLES, require_matplotlib

COLORS = {"stock": "#c9d3df", "seer": "#2a6fb0"}
# Curves that are equal lie on each other: the one below is wide.
WIDTHS = {"stock": 6.0, "seer": 1.5}


def draw(sides: Mapping[str, Sequence[Step]], path: Path) -> None:
    """Writes the picture. Raises ValueError for a file that cannot be written."""
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 7), layout="constrained")
    rows = figure.subplots(3, 1, sharex=True)
    for side, steps in sides.items():
        numbers = range(1, len(steps) + 1)
        style = {"color": COLORS[side], "linewidth": WIDTHS[side], "label": TITLES[side]}
        rows[0].plot(numbers, [step.reward for step in steps], **style)
        rows[1].plot(numbers, [step.loss for step in steps], **style)
        rows[2].plot(numbers, list(accumulate(step.rollout_s for step in steps)), **style)
    for axes, name in zip(rows, ("mean reward", "loss", "seconds in rollouts so far"), strict=True):
        axes.set_ylabel(name)
    rows[0].set_ylim(0, 1)
    rows[-1].set_ylim(bottom=0)
    rows[-1].set_xlabel("step")
    rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if "stock" in sides:
        stock_s, seer_s = (seconds(sides[side], "rollout_s") for side in ("stock", "seer"))
        rows[-1].set_title(f"{stock_s - seer_s:.0f} s of {stock_s:.0f} s saved")
    rows[0].legend(frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; wanted a file to write the picture to") from error
