"""Rows of a benchmark from its rollouts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.rollout.measure import different, identical
from bench.rollout.systems import BASELINE, SYSTEMS
from bench.rows import Row, median_row
from sglang_seer.demo.compare import run_of
from sglang_seer.report.figures import side_figures
from sglang_seer.rollout.synchronous import Rollout

BENCH = "rollout"
# A tail of one stock response that ends last has no length worth a ratio.
LEAST_S = 1e-3
UNITS = {
    "seconds": "s",
    "throughput": "tokens/s",
    "tail_seconds": "s",
    "acceptance_length": "tokens/step",
    "retractions": "1",
    "mean_length": "tokens",
}

Rollouts = Mapping[str, Sequence[Rollout]]


def measured(rollout: Rollout) -> dict[str, Any]:
    """The figures of one rollout."""
    start_s = min(one.submitted_s for one in rollout.generations)
    made = side_figures([run_of(one, start_s) for one in rollout.generations])
    return made | {"mean_length": made["tokens"] / len(rollout.generations)}


def differing(rollouts: Rollouts) -> dict[str, int]:
    """Samples that are not the baseline's, by system; of systems that promise to be exact, and have any.

    A sample that is missing counts, unless the system takes whichever end first.
    """
    found = {
        name: sum(
            different(one, base) if SYSTEMS[name].issued > 1 else len(base.generations) - identical(one, base)
            for one, base in zip(made, rollouts[BASELINE], strict=True)
        )
        for name, made in rollouts.items()
        if SYSTEMS[name].exact
    }
    return {name: count for name, count in found.items() if count}


def rows(rollouts: Rollouts, case: str, bench: str = BENCH) -> list[Row]:
    """Medians over repetitions; ratios are taken within a repetition first."""
    figures = {name: [measured(one) for one in made] for name, made in rollouts.items()}
    best = best_stock(figures)
    found: list[Row] = []
    for name, made in figures.items():

        def add(metric: str, values: Sequence[float], unit: str, system: str = name) -> None:
            found.append(median_row(bench, system, case, metric, values, unit))

        for metric, unit in UNITS.items():
            add(metric, [float(one[metric] or 0.0) for one in made], unit)
        add("throughput_over_fcfs", _ratios(made, figures[BASELINE], "throughput"), "1")
        add("throughput_over_best_stock", _ratios(made, figures[best], "throughput"), "1")
        add("tail_over_fcfs", _ratios(made, figures[BASELINE], "tail_seconds"), "1")
        # Not 1 where a system chooses its samples by their length, or samples by another law of random numbers.
        add("mean_length_over_fcfs", _ratios(made, figures[BASELINE], "mean_length"), "1")
        pairs = list(zip(rollouts[name], rollouts[BASELINE], strict=True))
        total = sum(len(base.generations) for _, base in pairs)
        found.append(Row(bench, name, case, "samples_identical", sum(identical(*pair) for pair in pairs), "1"))
        found.append(Row(bench, name, case, "samples_total", total, "1"))
    return found


def best_stock(figures: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The stock setting of the highest median throughput."""

    def middle(name: str) -> float:
        return sorted(float(one["throughput"]) for one in figures[name])[len(figures[name]) // 2]

    return max((name for name in figures if SYSTEMS[name].stock), key=middle)


def _ratios(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    return [max(a[metric], LEAST_S) / max(b[metric], LEAST_S) for a, b in zip(ours, theirs, strict=True)]
