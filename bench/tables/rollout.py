"""Rollouts of one workload: a system a line, stock SGLang first."""

from __future__ import annotations

from bench.rollout.systems import SYSTEMS
from bench.rows import grid
from bench.tables.results import Results

COLUMNS = (
    "medians (lowest to highest)",
    "seconds",
    "tokens/s",
    "over fcfs",
    "over the best stock",
    "tail s",
    "tail over fcfs",
    "retracted",
    "samples identical",
)


def table(results: Results) -> str:
    lines = []
    for system, case in dict.fromkeys((row["system"], row["case"]) for row in results.rows):

        def shown(metric: str, form: str, system: str = system, case: str = case) -> str:
            return results.ranged(system, case, metric, form)

        identical, total = (results.value(system, case, f"samples_{which}") for which in ("identical", "total"))
        lines.append(
            [
                _name(results, system, case),
                shown("seconds", ".1f"),
                shown("throughput", ",.0f"),
                shown("throughput_over_fcfs", ".2f"),
                shown("throughput_over_best_stock", ".2f"),
                shown("tail_seconds", ".1f"),
                shown("tail_over_fcfs", ".2f"),
                shown("retractions", ",.0f"),
                # SGLang's own speculative sampling draws other samples of the same distribution; a partial rollout
                # returns those of other prompts.
                f"{identical:,.0f} of {total:,.0f}" if SYSTEMS[system].exact and SYSTEMS[system].issued == 1 else "-",
            ]
        )
    return grid(COLUMNS, lines)


def _name(results: Results, system: str, case: str) -> str:
    """What the system is; of one that chooses its samples, what that does to their length."""
    what = SYSTEMS[system].what
    if SYSTEMS[system].issued == 1:
        return what
    return f"{what} (samples {results.value(system, case, 'mean_length_over_fcfs'):.2f} times as long)"
