"""Simulated clusters: a policy a line, the paper's three workloads as columns."""

from __future__ import annotations

from bench.rows import grid
from bench.tables.results import Results

CASES = {"moonlight": "Moonlight", "qwen2-vl-72b": "Qwen2-VL-72B", "kimi-k2": "Kimi-K2"}
POLICIES = {
    "divided": "divided rollout",
    "seer-paper": "+ the paper's order",
    "seer": "+ our order",
    "seer-spec": "+ grouped drafts",
    "oracle": "oracle that knows all lengths, no drafts",
}


def table(results: Results) -> str:
    def over_verl(policy: str, case: str) -> str:
        rate, tail = (results.value(policy, case, f"{metric}_over_verl") for metric in ("throughput", "tail"))
        return f"{rate:.2f} ({tail:.2f})"

    def retracted(case: str) -> str:
        return "; ".join(f"{results.value(policy, case, 'retractions'):,.0f}" for policy in ("verl", "seer"))

    lines = [[name, *(over_verl(policy, case) for case in CASES)] for policy, name in POLICIES.items()]
    over_oracle = [f"{results.value('seer', case, 'throughput_over_oracle'):.3f}" for case in CASES]
    lines.append(["our order over the oracle", *over_oracle])
    lines.append(["requests retracted: veRL; ours", *map(retracted, CASES)])
    return grid(["throughput over veRL (tail time over veRL)", *CASES.values()], lines)
