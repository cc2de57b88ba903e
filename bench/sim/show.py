"""Tables of the outcomes."""

from __future__ import annotations

from collections.abc import Sequence

from bench.rows import table
from bench.sim.figures import Outcomes, middle, rate, tail
from bench.sim.paper import Verdict


def _cell(values: Sequence[float], form: str) -> str:
    value = middle(values)
    return "" if value is None else format(value, form)


def workloads_table(outcomes: Outcomes) -> str:
    lines = []
    for case in outcomes.cases:
        for policy in outcomes.policies(case):
            cells = outcomes.of(case, policy)
            lines.append(
                [
                    f"{case}: {policy}",
                    _cell([cell.seconds for cell in cells], ",.0f"),
                    _cell(outcomes.ratios(case, policy, "verl", rate), ".2f"),
                    _cell(outcomes.ratios(case, policy, "oracle", rate), ".3f"),
                    _cell(outcomes.ratios(case, policy, "partial", rate), ".2f"),
                    _cell([cell.tail_s for cell in cells], ",.0f"),
                    _cell(outcomes.ratios(case, policy, "verl", tail), ".2f") if policy != "partial" else "",
                    _cell([float(cell.retractions) for cell in cells], ",.0f"),
                    _cell([cell.migrated_tb for cell in cells], ".1f"),
                ]
            )
    head = [
        "workload: policy",
        "seconds",
        "x veRL",
        "x oracle",
        "x partial",
        "tail s",
        "tail / veRL",
        "retracted",
        "TB",
    ]
    return table("Simulated rollouts (median over seeds; throughput as a multiple of others')", head, lines)


def paper_table(verdicts: Sequence[Verdict]) -> str:
    lines, notes = [], []
    for verdict in verdicts:
        claim = verdict.claim
        theirs = f"{claim.low:,g}" if claim.low == claim.high else f"{claim.low:g} to {claim.high:g}"
        ours = ", ".join(f"{value:,.0f}" if value >= 100 else f"{value:.2f}" for value in verdict.values)
        lines.append([claim.name, theirs, ours, "yes" if verdict.near else "no"])
        if not verdict.near:
            notes.append(f"- {claim.name}: paper {theirs}, here {ours}. {claim.why}.")
    shown = table("The paper's numbers (ours: one a workload, in order)", ["", "paper", "here", "within 15%"], lines)
    return shown + ("\nDifferences of more than 15%:\n" + "\n".join(notes) + "\n" if notes else "")


def sweep_table(outcomes: Outcomes) -> str:
    lines = []
    for case in outcomes.cases:
        lines.append(
            [
                case,
                *(
                    _cell([cell.seconds for cell in outcomes.of(case, policy)], ",.0f")
                    for policy in ("verl", "divided", "seer", "oracle")
                ),
                _cell(outcomes.ratios(case, "seer", "divided", rate), ".3f"),
                _cell(outcomes.ratios(case, "seer", "oracle", rate), ".3f"),
                _cell(outcomes.ratios(case, "seer", "verl", tail), ".2f"),
            ]
        )
    head = ["sweep", "veRL s", "divided s", "Seer s", "oracle s", "Seer x divided", "Seer x oracle", "Seer tail / veRL"]
    return table("Past the paper (no drafts)", head, lines)
