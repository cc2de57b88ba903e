"""One workload under one policy; partial rollout as a row of steps."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sglang_seer.sim.cluster import Cluster, simulate
from sglang_seer.sim.policy import Policy
from sglang_seer.sim.request import Request
from sglang_seer.sim.result import Result
from sglang_seer.sim.workload import Workload

# Steps of a partial rollout; the first has nothing carried over and is not counted.
PARTIAL_STEPS = 5


@dataclass(frozen=True, slots=True)
class PartialResult:
    """tokens_per_s: of delivered groups, after the first step. first_mean_tokens: mean length that step 1 delivered,
    to be compared with `mean_tokens` of all that was issued in it."""

    tokens_per_s: float
    seconds_a_step: float
    first_mean_tokens: float
    mean_tokens: float
    steps: list[Result]


def partial_rollout(
    cluster: Cluster, policy: Policy, workload: Workload, seed: int, steps: int = PARTIAL_STEPS
) -> PartialResult:
    """Issue `policy.issued` times the wanted prompts, stop when enough groups are whole, carry the others over.

    A carried response keeps its tokens and is prefilled again in the next step. Raises ValueError for fewer than two
    steps.
    """
    if steps < 2:
        raise ValueError(f"steps: got {steps}, wanted at least 2")
    carried: list[list[Request]] = []
    seconds, tokens = 0.0, 0
    first_mean = mean = 0.0
    results = []
    for step in range(steps):
        fresh = workload.issue(policy.issued).requests(seed * 1000 + step)
        groups = [*carried, *_groups(fresh)][: policy.issued * workload.prompts]
        requests: list[Request] = []
        for number, members in enumerate(groups):
            for request in members:
                requests.append(_again(request, len(requests), number))
        result = simulate(cluster, policy, requests, stop_after_groups=workload.prompts)
        results.append(result)
        whole = [members for members in _groups(requests) if not any(one.remaining_tokens for one in members)]
        carried = [members for members in _groups(requests) if any(one.remaining_tokens for one in members)]
        delivered = sum(request.length_tokens for members in whole for request in members)
        if step == 0:
            first_mean = delivered / sum(map(len, whole))
            mean = sum(request.length_tokens for request in requests) / len(requests)
        else:
            seconds += result.seconds
            tokens += delivered
    return PartialResult(tokens / seconds, seconds / (steps - 1), first_mean, mean, results)


def _groups(requests: list[Request]) -> list[list[Request]]:
    groups: dict[str, list[Request]] = defaultdict(list)
    for request in requests:
        groups[request.group].append(request)
    return list(groups.values())


def _again(request: Request, index: int, group: int) -> Request:
    return Request(
        index=index,
        group=f"{group}",
        prompt_tokens=request.prompt_tokens,
        length_tokens=request.length_tokens,
        limit_tokens=request.limit_tokens,
        tokens=request.tokens,
    )
