"""Rows from outcomes: medians over seeds, and ratios of policies on the same seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from bench.rows import Row, median_row
from bench.sim.cells import Outcome

Key = tuple[str, str, int]


class Outcomes:
    """Outcomes by case, policy and seed."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._by_key: dict[Key, Outcome] = {(o.cell.case, o.cell.policy, o.cell.seed): o for o in outcomes}

    @property
    def cases(self) -> list[str]:
        return list(dict.fromkeys(case for case, _, _ in self._by_key))

    def policies(self, case: str) -> list[str]:
        return list(dict.fromkeys(policy for its, policy, _ in self._by_key if its == case))

    def of(self, case: str, policy: str) -> list[Outcome]:
        return [outcome for (its, name, _), outcome in self._by_key.items() if (its, name) == (case, policy)]

    def ratios(
        self, case: str, policy: str, base: str, value: Callable[[Outcome], float], base_case: str | None = None
    ) -> list[float]:
        """value of a policy over that of another one with the same lengths; nothing where one of them was not run or
        the other's is 0."""
        found = []
        for outcome in self.of(case, policy):
            other = self._by_key.get((base_case or case, base, outcome.cell.seed))
            if other is not None and value(other) > 0.0:
                found.append(value(outcome) / value(other))
        return found


def rate(outcome: Outcome) -> float:
    return outcome.tokens_per_s


def tail(outcome: Outcome) -> float:
    return outcome.tail_s


def rows(outcomes: Outcomes) -> list[Row]:
    """Every number of every case."""
    made: list[Row] = []
    for case in outcomes.cases:
        for policy in outcomes.policies(case):
            cells = outcomes.of(case, policy)

            def add(metric: str, values: Sequence[float], unit: str, case: str = case, policy: str = policy) -> None:
                if values:
                    made.append(median_row("sim", policy, case, metric, values, unit))

            add("seconds", [cell.seconds for cell in cells], "s")
            add("tokens_per_s", [cell.tokens_per_s for cell in cells], "tokens/s")
            add("tail_seconds", [cell.tail_s for cell in cells], "s")
            add("retractions", [float(cell.retractions) for cell in cells], "requests")
            add("migrated_tb", [cell.migrated_tb for cell in cells], "TB")
            add("busy_share", [cell.busy_share for cell in cells], "ratio")
            if policy == "partial":
                add("first_delivered_length_share", [cell.first_share for cell in cells], "ratio")
            for base, name in (("verl", "verl"), ("oracle", "oracle"), ("partial", "partial_rollout")):
                if policy != base:
                    add(f"throughput_over_{name}", outcomes.ratios(case, policy, base, rate), "ratio")
            if policy not in ("verl", "partial"):
                add("tail_over_verl", outcomes.ratios(case, policy, "verl", tail), "ratio")
            if policy not in ("fcfs", "partial"):
                # Stock retracts; the smallest number that can be stated is against one retraction.
                stock = outcomes.ratios(case, policy, "fcfs", lambda cell: float(cell.retractions))
                add("retractions_over_stock", stock, "ratio")
    return made


def middle(values: Sequence[float]) -> float | None:
    return median(values) if values else None
