"""Drafting under a batch-wide budget against always drafting the full width, at equal acceptance.

The full width is a chain of eight tokens for every request. Under the budget the index offers wider trees, and the
most worthwhile nodes of the whole batch are verified; how many is bisected until the acceptance is that of the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from bench.draft.drafter import SHAPES, Shape
from bench.draft.figures import BENCH, MEAN
from bench.draft.replay import Counts, replay
from bench.draft.systems.seer import CONFIGS, Seer
from bench.draft.tokens import TokenGroup
from bench.rows import Row
from sglang_seer.draft import Proposal, SuffixIndex
from sglang_seer.draft.budget import Candidates

FULL_WIDTH = SHAPES[0]
OFFERED = Shape("tree32", 32)
TOKENS = 20_000
"""Generated tokens replayed of each set: every point of the bisection is a replay."""
BISECTIONS = 6


class Budgeted(Seer):
    """Our index, of whose drafts `nodes` a request are kept, wherever in the batch they are worth most."""

    def __init__(self, index: SuffixIndex, nodes: float) -> None:
        super().__init__(index, OFFERED)
        self._nodes = nodes

    def propose(self, args: Any) -> Proposal:
        proposal = super().propose(args)
        candidates = Candidates(proposal.probabilities, proposal.starts)
        total = round(self._nodes * (len(proposal.starts) - 1))
        return proposal.select(candidates.spend(total, OFFERED.nodes, diminishing=True).keep)


def rows(name: str, groups: Sequence[TokenGroup], vocab_size: int) -> list[Row]:
    """Rejected nodes a token under the budget over those of the full width, and what was drafted."""
    groups = _some(groups)
    index = {"vocab_size": vocab_size, **CONFIGS[0].options}
    full = replay(Seer(SuffixIndex(**index), FULL_WIDTH), groups, FULL_WIDTH).total
    low, high, found = 0.0, float(FULL_WIDTH.nodes), full
    for _ in range(BISECTIONS):
        nodes = (low + high) / 2
        total = replay(Budgeted(SuffixIndex(**index), nodes), groups, OFFERED).total
        if total.acceptance >= full.acceptance:
            high, found = nodes, total
        else:
            low = nodes
    case = f"{name}/{FULL_WIDTH.name}"
    return [
        Row(BENCH, "seer", case, "rejected_over_full_width", _rejected(found) / _rejected(full), "ratio"),
        Row(BENCH, "seer", case, "budgeted_nodes", found.drafted / found.steps, "nodes/request"),
        Row(BENCH, "seer", case, "budgeted_acceptance_over_full_width", found.acceptance / full.acceptance, "ratio"),
    ]


def mean_rows(rows: Sequence[Row], sets: Sequence[str]) -> list[Row]:
    """Means over the sets of real text; over all if there is none."""
    means = []
    for metric in dict.fromkeys(row.metric for row in rows):
        alike = [row for row in rows if row.metric == metric]
        kept = [row for row in alike if row.case.split("/")[0] in sets] or alike
        value = fmean(row.value for row in kept)
        means.append(Row(BENCH, "seer", f"{MEAN}/{FULL_WIDTH.name}", metric, value, kept[0].unit))
    return means


def _rejected(counts: Counts) -> float:
    """Rejected nodes a token."""
    return (counts.drafted - counts.accepted) / counts.tokens


def _some(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    kept: list[TokenGroup] = []
    tokens = 0
    for group in groups:
        if tokens >= TOKENS:
            break
        kept.append(group)
        tokens += sum(int(response.generated.sum()) for response in group.responses)
    return kept
