"""A profile of an engine from some of its rollouts, and another rollout simulated with it.

Every response that was never retracted tells the mean time of its steps: from the end of its prefill to its end, by its
tokens less one. The engine's polled load tells over how many rows and how much KV. What prefills of others took out of
that time is subtracted by the fit itself, until it settles.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from sglang_seer.rollout.records import Generation, Load
from sglang_seer.rollout.synchronous import Rollout
from sglang_seer.sim import Cluster, Profile, Request, Result, StepTime, simulate
from sglang_seer.sim.policy import Drafts, Order, Placement, Policy
from sglang_seer.sim.profile import StepPoint, fit

# Shorter responses are mostly rounding: loads are polled a few times a second.
LEAST_TOKENS = 64
_ROUNDS = 3

# Prompts go to engines by group, as the rollout itself sends them.
POLICIES = {
    "stock": Policy(Placement.GROUPS, Order.ARRIVAL, Drafts.NONE, "stock engines, groups in turn"),
    "seer": Policy(Placement.GROUPS, Order.CONTEXT, Drafts.NONE, "Seer in each engine, groups in turn"),
}


@dataclass(frozen=True, slots=True)
class Window:
    """A response's decoding. prefilled_tokens: of each prefill of another response that fell into it."""

    tokens: int
    seconds: float
    rows: float
    context_tokens: float
    prefilled_tokens: tuple[int, ...]


def windows(rollouts: Sequence[Rollout]) -> list[Window]:
    """Of all engines. Raises ValueError where none tells anything: no times of prefills, or no loads."""
    found: list[Window] = []
    for rollout in rollouts:
        starts = sorted((one.first_s, one.prompt_tokens) for one in rollout.generations if one.first_s is not None)
        for generation in rollout.generations:
            if generation.first_s is None or generation.retractions or len(generation.output_ids) < LEAST_TOKENS:
                continue
            during = _during(rollout.loads, generation.first_s, generation.finished_s)
            if not during:
                continue
            low = bisect_right(starts, (generation.first_s, 1 << 30))
            high = bisect_right(starts, (generation.finished_s, 1 << 30))
            found.append(
                Window(
                    tokens=len(generation.output_ids) - 1,
                    seconds=generation.finished_s - generation.first_s,
                    rows=float(np.mean([load.running for load in during])),
                    context_tokens=float(np.mean([load.used_tokens for load in during])),
                    prefilled_tokens=tuple(tokens for _, tokens in starts[low:high]),
                )
            )
    if len(found) < 3:
        raise ValueError(
            f"rollout: got {len(found)} responses of {LEAST_TOKENS} tokens with the time of their prefill and the "
            "engine's load meanwhile, wanted at least 3"
        )
    return found


def _during(loads: Sequence[Load], begin_s: float, end_s: float) -> list[Load]:
    return [load for load in loads if begin_s <= load.at_s <= end_s and load.running]


def step_time(seen: Sequence[Window]) -> StepTime:
    """The roofline nearest to the windows."""
    stolen = [0.0] * len(seen)
    for _ in range(_ROUNDS):
        points = [
            StepPoint(
                rows=max(1, round(window.rows)),
                context=round(window.context_tokens),
                # At least half of the time was decoding, whatever the first rounds believe.
                seconds=max(window.seconds - away, 0.5 * window.seconds) / window.tokens,
            )
            for window, away in zip(seen, stolen, strict=True)
        ]
        step = fit(points)
        stolen = [sum(map(step.batch_seconds, window.prefilled_tokens)) for window in seen]
    return step


def profile_of(rollouts: Sequence[Rollout], *, max_running: int) -> Profile:
    """Of the engines, all alike, that made these rollouts."""
    loads = [load for rollout in rollouts for load in rollout.loads]
    if not loads:
        raise ValueError("rollout: got no load of the engine, wanted some")
    return Profile(
        name="CPU engine",
        gpus=1,
        kv_capacity_tokens=loads[0].capacity_tokens,
        step=step_time(windows(rollouts)),
        # No KV moves between these engines.
        kv_bytes_per_token=1.0,
        link_bytes_s=1e12,
        max_running=max_running,
        source="fitted to rollouts",
    )


def simulated(profile: Profile, generations: Sequence[Generation], limit: int, *, engines: int, side: str) -> Result:
    """The rollout that gave these generations, in the order of its requests, under the side's policy."""
    requests = [
        Request(number, one.group, one.prompt_tokens, len(one.output_ids), limit)
        for number, one in enumerate(generations)
    ]
    return simulate(Cluster(profile=profile, instances=engines), POLICIES[side], requests)


def merged(rollouts: Sequence[Rollout], order: Sequence[tuple[str, int]]) -> list[Generation]:
    """Generations of all engines by (group, sample), in the given order."""
    by_name = {(one.group, one.sample): one for rollout in rollouts for one in rollout.generations}
    return [by_name[name] for name in order]


def makespan_s(rollouts: Sequence[Rollout]) -> float:
    everything = [one for rollout in rollouts for one in rollout.generations]
    return max(one.finished_s for one in everything) - min(one.submitted_s for one in everything)


def describe(profile: Profile) -> dict[str, float]:
    """The fitted numbers, for the kept file."""
    return dict(msgspec.to_builtins(profile.step))
