"""Pictures of the outcomes."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from bench.sim.figures import Outcomes, middle, rate, tail

ABLATION = ("verl", "divided", "seer-paper", "seer", "seer-spec", "oracle")
COLOURS = dict(zip(ABLATION, ("#888888", "#edae49", "#7fb7be", "#1b6ca8", "#00798c", "#d1495b"), strict=True))


def draw(folder: Path, main: Outcomes, swept: Outcomes) -> list[Path]:
    """Ablation, tail over time, sweeps: those of them that were simulated."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    cases = [case for case in main.cases if "/" not in case]
    if cases:
        drawn += [_ablation(folder, main, cases), _running(folder, main, cases)]
    for name in dict.fromkeys(case.partition("=")[0] for case in swept.cases):
        drawn.append(_sweep(folder, swept, name))
    return drawn


def _ablation(folder: Path, outcomes: Outcomes, cases: list[str]) -> Path:
    figure, panels = plt.subplots(1, 2, figsize=(11, 3.6))
    for panel, value, title in zip(
        panels, (rate, tail), ("throughput over veRL's", "tail time over veRL's"), strict=True
    ):
        for place, policy in enumerate(ABLATION):
            heights = [middle(outcomes.ratios(case, policy, "verl", value)) or 0.0 for case in cases]
            x = [number + (place - 2.5) * 0.14 for number in range(len(cases))]
            panel.bar(x, heights, 0.13, label=policy, color=COLOURS[policy])
        panel.axhline(1.0, color="black", linewidth=0.6)
        panel.set_xticks(range(len(cases)), cases)
        panel.set_title(title, loc="left", fontsize=10)
    panels[0].legend(fontsize=7, ncols=2)
    return _save(figure, folder / "sim_ablation.png")


def _running(folder: Path, outcomes: Outcomes, cases: list[str]) -> Path:
    figure, panels = plt.subplots(1, len(cases), figsize=(4 * len(cases), 3.2), squeeze=False)
    for panel, case in zip(panels[0], cases, strict=True):
        for policy in ABLATION:
            found = outcomes.of(case, policy)
            if found:
                samples = found[0].samples
                left = [sample[1] + sample[2] for sample in samples]
                panel.plot([sample[0] for sample in samples], left, label=policy, color=COLOURS[policy], linewidth=1)
        panel.set_title(case, loc="left", fontsize=10)
        panel.set_xlabel("seconds")
    panels[0, 0].set_ylabel("requests not done")
    panels[0, 0].legend(fontsize=7)
    return _save(figure, folder / "sim_tail.png")


def _sweep(folder: Path, outcomes: Outcomes, name: str) -> Path:
    cases = [case for case in outcomes.cases if case.partition("=")[0] == name]
    figure, panel = plt.subplots(figsize=(5.5, 3.4))
    for policy in ("verl", "divided", "seer", "oracle"):
        seconds = [middle([cell.seconds for cell in outcomes.of(case, policy)]) for case in cases]
        known = [(number, value) for number, value in enumerate(seconds) if value is not None]
        if known:
            panel.plot(*zip(*known, strict=True), marker="o", markersize=3, label=policy, color=COLOURS[policy])
    panel.set_xticks(range(len(cases)), [case.partition("=")[2] for case in cases])
    panel.set_xlabel(name)
    panel.set_ylabel("seconds of the rollout")
    panel.legend(fontsize=7)
    return _save(figure, folder / f"sim_{name}.png")


def _save(figure: Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
