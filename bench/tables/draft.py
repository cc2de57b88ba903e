"""The draft index beside other drafters: tokens a step, and what they cost."""

from __future__ import annotations

from statistics import fmean

from bench.rows import grid
from bench.tables.results import Results

SHAPES = {"chain8": "chain of 8", "tree8": "tree of 8", "tree16": "tree of 16", "tree32": "tree of 32"}
OURS = ("seer", "default")
SCALE = "256x15.7k"
# Two of ArcticInference: as it comes, and its cheapest.
COMPARED = (OURS, ("arctic", "default"), ("arctic", "group-trees-short"), ("sglang_ngram", "prompt"))


def acceptance(results: Results) -> str:
    """Means over the recorded sets, against the best peer of each."""
    ours, best = ([_mean(results, shape, peers) for shape in SHAPES] for peers in (False, True))
    lowest = min(
        row["value"]
        for row in results.rows
        if row["metric"] == "acceptance_over_best_peer" and row["case"].split("/")[0] in results.document["sets"]
    )
    lines = [
        ["Seer", *(f"{value:.3f}" for value in ours)],
        ["best peer configuration, chosen for each set", *(f"{value:.3f}" for value in best)],
        [
            f"ratio (at least {lowest:.3f} on every set and shape)",
            *(f"{_over_best(results, shape):.3f}" for shape in SHAPES),
        ],
    ]
    return grid(["tokens a verification step (bonus included)", *SHAPES.values()], lines)


def _mean(results: Results, shape: str, peers: bool) -> float:
    def of_set(name: str) -> float:
        return max(
            float(row["value"])
            for row in results.rows
            if row["metric"] == "acceptance"
            and row["case"].startswith(f"{name}/{shape}/")
            and ((row["system"] != "seer") if peers else (row["system"], row["case"].split("/")[2]) == OURS)
        )

    return fmean(of_set(name) for name in results.document["sets"])


def _over_best(results: Results, shape: str) -> float:
    return results.value("seer", f"mean/{shape}/default over the best peer of each set", "acceptance_over_best_peer")


def cost(results: Results) -> str:
    """CPU times and memory at the largest scale; the cheapest configuration of ArcticInference beside its default."""
    found = {(row["system"], row["case"], row["metric"]): row["value"] for row in results.rows}

    def line(name: str, metric: str, shape: str = "", form: str = ".2g") -> list[str]:
        place = f"{SCALE}/{shape}/" if shape else f"{SCALE}/"
        values = [found.get((system, place + config, metric)) for system, config in COMPARED]
        return [name, *("-" if value is None else _shown(value, form) for value in values)]

    lines = [
        *(line(f"draft, {name}, us a request", "draft_us_per_request", shape) for shape, name in SHAPES.items()),
        line("append, us a token", "append_us_per_token"),
        line("memory, bytes a token", "bytes_per_token"),
        line("longest call but drafting, ms", "worst_stall_ms"),
    ]
    head = ["Seer", "ArcticInference", "its cheapest configuration", "SGLang NGRAM"]
    return grid(["256 requests in 16 groups, 15,700 tokens each, one core", *head], lines)


def _shown(value: float, form: str) -> str:
    return f"{value:,.0f}" if value >= 10 else format(value, form)
