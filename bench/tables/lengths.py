"""Estimates of a response's length, against the paper's rule; and what a scheduling pass costs."""

from __future__ import annotations

from statistics import fmean

from bench.rows import grid
from bench.tables.results import Results

RULES = {"longest_sibling": "the longest finished sibling (the paper's)", "context": "ours"}
# Of the numbers of siblings those that groups of every set have.
CASES = {
    "1 siblings": "1 sibling",
    "2 siblings": "2 siblings",
    **{f"{share}% ended": f"what {share}% ended tell" for share in (25, 50, 75, 90)},
}
PASSES = {
    "decide_first": "the first order of all",
    "decide_later": "the order again, one group changed",
    "unchanged": "nothing has changed",
    "after_a_finish": "a response has finished",
}


def estimates(results: Results) -> str:
    """Means over the recorded sets."""
    real = [name for name, load in results.document["workloads"].items() if load["real"]]

    def mean(system: str, case: str, metric: str, form: str) -> str:
        return format(fmean(results.value(system, f"{name}/{case}", metric) for name in real), form)

    lines = []
    for metric, what, form in (
        ("log_error", "error of the log length", ".2f"),
        ("coverage_q90", "share below the 90% quantile", ".0%"),
    ):
        for system, name in RULES.items():
            lines.append([f"{what}: {name}", *(mean(system, case, metric, form) for case in CASES)])
    return grid([f"mean of {len(real)} recorded sets, knowing", *CASES.values()], lines)


def passes(results: Results) -> str:
    lines = []
    for row in results.rows:
        kind, _, waiting = row["case"].rstrip("]").partition("[")
        lines.append([f"{int(waiting):,} waiting, {PASSES[kind]}", f"{row['value'] / 1000:#.2g} ms"])
    return grid(["a scheduling pass takes longer by", "median"], lines)
