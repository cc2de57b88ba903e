"""What a rollout is worth, from the times of its samples. Pure."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from sglang_seer.report.kept import Comparison, Run

TAIL_SHARE = 0.1


class Timed(Protocol):
    """Has a time at which it was asked for and one at which it ended."""

    @property
    def submitted_s(self) -> float: ...

    @property
    def finished_s(self) -> float: ...


def tail_start_s(runs: Sequence[Timed], share: float = TAIL_SHARE) -> float:
    """The moment from which only the last `share` of the requests runs: at most floor(share * n), but at least one.

    Raises ValueError for no runs.
    """
    if not runs:
        raise ValueError("tail_start_s: wanted at least one run, saw none")
    finished = sorted(run.finished_s for run in runs)
    last = max(1, math.floor(share * len(finished)))
    if last == len(finished):
        return min(run.submitted_s for run in runs)
    return finished[-last - 1]


def side_figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Tokens, seconds and counts of one side; a count that the engine did not report is None."""
    start_s = min(run.submitted_s for run in runs)
    end_s = max(run.finished_s for run in runs)
    tokens = sum(run.output_tokens for run in runs)
    retractions = [run.retractions for run in runs if run.retractions is not None]
    verified = [run for run in runs if run.verify_steps]
    steps = sum(run.verify_steps or 0 for run in verified)
    return {
        "tokens": tokens,
        "seconds": end_s - start_s,
        "throughput": tokens / (end_s - start_s),
        "tail_seconds": end_s - tail_start_s(runs),
        # Bonus token included: tokens that one forward pass of the target yields. 1.0 is plain decoding.
        "acceptance_length": sum(run.output_tokens for run in verified) / steps if steps else 1.0,
        "retractions": sum(retractions) if retractions else None,
    }


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def figures(comparison: Comparison) -> dict[str, Any]:
    """Every figure of a comparison under the name it has in the kept file; ratios are Seer by stock."""
    stock, seer = (side_figures(comparison.runs(side)) for side in ("stock", "seer"))
    samples = comparison.samples
    rewards = [sample.reward for sample in samples if sample.reward is not None]
    seer_rewards = [s.reward if s.identical else s.seer_reward for s in samples]
    return {
        "samples_total": len(samples),
        "samples_identical": sum(sample.identical for sample in samples),
        "tokens": seer["tokens"],
        "tokens_stock": stock["tokens"],
        "seconds": seer["seconds"],
        "seconds_stock": stock["seconds"],
        "throughput": seer["throughput"],
        "throughput_stock": stock["throughput"],
        "throughput_ratio": seer["throughput"] / stock["throughput"],
        "tail_seconds": seer["tail_seconds"],
        "tail_seconds_stock": stock["tail_seconds"],
        "tail_ratio": seer["tail_seconds"] / stock["tail_seconds"] if stock["tail_seconds"] else None,
        "acceptance_length": seer["acceptance_length"],
        "acceptance_length_stock": stock["acceptance_length"],
        "retractions": seer["retractions"],
        "retractions_stock": stock["retractions"],
        "mean_reward": mean([reward for reward in seer_rewards if reward is not None]),
        "mean_reward_stock": mean(rewards),
    }
