"""What a length model says at a moment of a rollout, and how far that is from what came."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bench.lengths.workloads import Workload
from sglang_seer.context import ContextLengths, LengthModel, LongestSibling, Remaining
from sglang_seer.context.remaining import LogNormal

QUANTILES = (0.5, 0.9, 0.95)


class Target(NamedTuple):
    """An unfinished response: its length, and how much of it is there."""

    group: int
    member: int
    generated_tokens: int
    tokens: int


class Moment(NamedTuple):
    """A state of a rollout: who ended, in order, and who did not."""

    name: str
    ended: Sequence[tuple[int, int]]
    unfinished: Sequence[Target]


class Score(NamedTuple):
    """log_error: root mean square of log(median / truth) of what remains. spearman: rank correlation of expected and
    true remainder. coverage: share of remainders within each of QUANTILES."""

    log_error: float
    spearman: float
    coverage: tuple[float, ...]


class AllSiblings:
    """A bound: knows all siblings of a response from the start, and the scatter within all groups."""

    def __init__(self, workload: Workload) -> None:
        logs = [np.log(group) for group in workload.groups]
        self._sums = [float(one.sum()) for one in logs]
        self._logs, self._limit = logs, workload.limit_tokens
        self._within = math.sqrt(float(np.mean([one.var(ddof=1) for one in logs])) + 1e-6)

    def remaining(self, target: Target) -> Remaining:
        logs = self._logs[target.group]
        mean = (self._sums[target.group] - float(logs[target.member])) / (len(logs) - 1)
        spread = self._within * math.sqrt(1 + 1 / (len(logs) - 1))
        return LogNormal(mean, spread, target.generated_tokens, self._limit)


MODELS: dict[str, Callable[[], LengthModel]] = {"longest_sibling": LongestSibling, "context": ContextLengths}


def after_siblings(workload: Workload, counts: Sequence[int], seed: int) -> Iterator[Moment]:
    """Of every group, so many members have ended, chosen by chance, and none of the others has begun."""
    rng = np.random.default_rng([seed, 1])
    orders = [rng.permutation(len(group)).tolist() for group in workload.groups]
    for count in counts:
        ended = [(group, member) for group, order in enumerate(orders) for member in order[:count]]
        unfinished = [
            Target(group, member, 0, int(workload.groups[group][member]))
            for group, order in enumerate(orders)
            for member in order[count:]
        ]
        if unfinished:
            yield Moment(f"{count} siblings", ended, unfinished)


def during_rollout(workload: Workload, shares: Sequence[float], seed: int) -> Iterator[Moment]:
    """First come, first served, in slots for a quarter of the requests, seen when these shares have ended."""
    groups = [(group, member) for group, tokens in enumerate(workload.groups) for member in range(len(tokens))]
    rng = np.random.default_rng([seed, 2])
    queue = [groups[place] for place in rng.permutation(len(groups))]
    slots = max(len(queue) // 4, 1)
    running: list[tuple[int, int, int]] = []
    ended: list[tuple[int, int]] = []
    waits, wanted = 0, [(share, round(share * len(queue))) for share in shares]
    now = 0
    while wanted:
        while len(running) < slots and waits < len(queue):
            group, member = queue[waits]
            heapq.heappush(running, (now + int(workload.groups[group][member]), group, member))
            waits += 1
        while wanted and len(ended) >= wanted[0][1]:
            share, _ = wanted.pop(0)
            lengths = workload.groups
            unfinished = [Target(g, m, now - (end - int(lengths[g][m])), int(lengths[g][m])) for end, g, m in running]
            unfinished += [Target(g, m, 0, int(lengths[g][m])) for g, m in queue[waits:]]
            # Whoever ends in this very step has nothing left to foretell.
            unfinished = sorted(target for target in unfinished if target.tokens > target.generated_tokens)
            if unfinished:
                yield Moment(f"{share:.0%} ended", list(ended), unfinished)
        if not running:
            return
        now, group, member = heapq.heappop(running)
        ended.append((group, member))


def told(model: LengthModel, workload: Workload, moment: Moment) -> LengthModel:
    """The model after everything that could be seen by that moment."""
    for target in moment.unfinished:
        if target.generated_tokens:
            model.progress(str(target.group), target.member, target.generated_tokens)
    for group, member in moment.ended:
        tokens = int(workload.groups[group][member])
        model.finish(str(group), tokens, member=member, limit_tokens=workload.limit_tokens)
    return model


def scores(workload: Workload, moment: Moment) -> dict[str, Score]:
    """Of both models and of the bound."""
    said: dict[str, list[Remaining]] = {}
    for name, make in MODELS.items():
        model = told(make(), workload, moment)
        limit = workload.limit_tokens
        said[name] = [
            model.remaining(str(target.group), target.generated_tokens, limit, member=target.member)
            for target in moment.unfinished
        ]
    bound = AllSiblings(workload)
    said["all_siblings"] = [bound.remaining(target) for target in moment.unfinished]
    truth = np.array([target.tokens - target.generated_tokens for target in moment.unfinished], dtype=np.float64)
    return {name: score(answers, truth) for name, answers in said.items()}


def score(answers: Sequence[Remaining], truth: np.ndarray) -> Score:
    """truth: [targets] tokens that came still, at least 1."""
    middle = np.array([answer.quantile(0.5) for answer in answers])
    expected = np.array([answer.mean for answer in answers])
    covered = [float(np.mean(truth <= np.array([answer.quantile(q) for answer in answers]))) for q in QUANTILES]
    error = float(np.sqrt(np.mean(np.log(middle / truth) ** 2)))
    return Score(error, spearman(expected, truth), tuple(covered))


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation; equal values share the mean of their ranks. 0 if one side is all equal."""
    ranks = [_ranks(np.asarray(values)) for values in (first, second)]
    if any(rank.std() == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[group]
