"""Which waiting requests may join without the KV pool overflowing later, and who goes if it does.

Stock SGLang reserves min(limit, 4096) x ratio tokens a request and retracts when that was wrong. Here every request
brings a distribution of the tokens it still needs, and the pool is looked at over all time to come, as if every running
request gained one token a step:

    use(t) = sum over requests that are still there after t tokens of (kv now + reserve + t)

A batch is safe when, at each of a few times, use(t) exceeds the pool with a chance of at most `risk`. Any of these will
do: the plan in which each request stays until its own quantile of 1 - risk / n (Bonferroni; whatever depends on what);
below eight requests the chance itself, summed over who may be there; from eight on Bernstein's inequality, and the
normal quantile with a correction for skew (Cornish and Fisher; an approximation, the sharpest for many, and too bold
for a few large groups). All but the plan take requests as independent, and siblings as one block as far as their doubt
is about the prompt: longest-first runs whole groups at once. Requests that yield at a chunk boundary free their place
there, so they count until then only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from sglang_seer.context import Remaining

# Quantiles that stand for a distribution, which is taken as even between two of them.
LEVELS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94, 0.97, 0.985, 0.995, 1.0)
_TIMES = 40
_BLOCK = 64
# Fewer are no crowd: their sum is far from normal, and they have few combinations.
_MANY = 8
DEFAULT_RISK = 0.05
DEFAULT_STAKE = 1.0
_LEAST_RISK, _MOST_RISK = 1e-9, 0.9


@dataclass(frozen=True, slots=True)
class Load:
    """What a request holds of the KV pool, and for how long.

    kv_tokens: held now; of a waiting request, after its prefill. remaining_tokens: quantiles at LEVELS of the tokens
    still to come. reserve_tokens: held besides, for the drafts of a step. chunk_tokens: tokens until it yields, None if
    it does not. cached_tokens: of kv_tokens, those that stay in the prefix cache if it is retracted. group: whose
    siblings it has; shared: share of the doubt that they have in common, 0 to 1.
    """

    kv_tokens: int
    remaining_tokens: tuple[float, ...]
    reserve_tokens: int = 0
    chunk_tokens: int | None = None
    cached_tokens: int = 0
    group: str | None = None
    shared: float = 0.0

    def __post_init__(self) -> None:
        for name in ("kv_tokens", "reserve_tokens", "cached_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted 0 or more")
        if self.cached_tokens > self.kv_tokens:
            raise ValueError(f"cached_tokens: got {self.cached_tokens}, wanted at most kv_tokens = {self.kv_tokens}")
        if not 0 <= self.shared <= 1:
            raise ValueError(f"shared: got {self.shared}, wanted 0 to 1")
        if self.chunk_tokens is not None and self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens: got {self.chunk_tokens}, wanted at least 1, or None")
        points = self.remaining_tokens
        if len(points) != len(LEVELS) or points[0] <= 0 or any(a > b for a, b in pairwise(points)):
            raise ValueError(f"remaining_tokens: got {points}, wanted {len(LEVELS)} positive numbers, ascending")

    @classmethod
    def of(
        cls,
        kv_tokens: int,
        remaining: Remaining,
        *,
        reserve_tokens: int = 0,
        chunk_tokens: int | None = None,
        cached_tokens: int = 0,
        group: str | None = None,
    ) -> Load:
        points = remaining.quantiles(LEVELS)
        shared = remaining.shared if group is not None else 0.0
        return cls(kv_tokens, points, reserve_tokens, chunk_tokens, cached_tokens, group, shared)


def risk_of(requests: int, stake: float = DEFAULT_STAKE) -> float:
    """Chance of an overflow that is worth it where so many run, one of them new: stake / requests, at most 0.9.

    One more adds its share to what the engine does, one of so many. An overflow makes all of them wait until what the
    retracted one had is computed again. So what may be risked falls with their number.
    """
    if requests < 1 or stake <= 0:
        raise ValueError(f"risk_of: got {requests} requests and a stake of {stake}, wanted at least 1 and above 0")
    return min(max(stake / requests, _LEAST_RISK), _MOST_RISK)


def admit(
    running: Sequence[Load],
    waiting: Sequence[Load],
    capacity_tokens: int,
    *,
    risk: float | Callable[[int], float] = DEFAULT_RISK,
) -> int:
    """How many from the head of `waiting` may join the running batch.

    capacity_tokens: size of the KV pool, what the running requests hold included. risk: chance of an overflow, or what
    tells it from the number of requests that run then. Whoever comes to run alone is admitted whatever it needs, as
    nothing would run else. Cost: linear in the requests.
    """
    if not callable(risk) and not 0 < risk < 1:
        raise ValueError(f"risk: got {risk}, wanted between 0 and 1")
    if capacity_tokens < 1:
        raise ValueError(f"capacity_tokens: got {capacity_tokens}, wanted at least 1")
    admitted = 0
    while admitted < len(waiting):
        block = waiting[admitted : admitted + _BLOCK]
        safe = _safe([*running, *waiting[:admitted]], block, capacity_tokens, risk)
        if not running and not admitted:
            safe[0] = True
        # Part of a safe batch is safe, also where no bound is sharp enough to say so.
        joined = int(np.flatnonzero(safe)[-1]) + 1 if safe.any() else 0
        admitted += joined
        if joined < len(block):
            break
    return admitted


def _safe(
    running: Sequence[Load], waiting: Sequence[Load], capacity: int, risk: float | Callable[[int], float]
) -> npt.NDArray[np.bool_]:
    """[waiting] whether the batch is safe with all waiting requests up to this one."""
    loads = [*running, *waiting]
    among = np.arange(len(running) + 1, len(loads) + 1)
    risks = np.array([risk(count) for count in among.tolist()] if callable(risk) else [risk] * len(among))
    held = np.array([load.kv_tokens + load.reserve_tokens for load in loads], dtype=np.float64)
    chunks = np.array([load.chunk_tokens or np.inf for load in loads])
    points = np.array([load.remaining_tokens for load in loads])
    stays = np.minimum(points, chunks[:, None])
    # Use falls only where somebody leaves: between two of these times it is at most that of those who are there at the
    # first, grown until the second.
    ends = np.unique(stays)
    if len(ends) > _TIMES:
        ends = ends[np.linspace(0, len(ends) - 1, _TIMES).astype(int)]
    starts = np.concatenate(([0.0], ends[:-1]))
    # [requests, times]: chance to be there still, and what it holds then.
    there = _survival(points, starts) * (starts < chunks[:, None])
    holds = held[:, None] + np.minimum(ends, stays[:, -1:])
    first = len(running)
    expected = np.cumsum(there * holds, axis=0)[first:]
    doubt, blocks = _doubt(loads, there, holds)
    variance = np.cumsum(doubt, axis=0)[first:]
    third = np.cumsum(doubt * blocks * (1 - 2 * there), axis=0)[first:]
    largest = np.maximum.accumulate(np.where(doubt > 0, blocks, 0.0), axis=0)[first:]
    odds = np.log(1 / risks)[:, None]
    margin = largest * (odds / 3)
    bernstein = expected + margin + np.sqrt(margin**2 + 2 * odds * variance)
    z = np.array([-NormalDist().inv_cdf(one) for one in risks.tolist()])[:, None]
    deviation = np.sqrt(variance)
    skew = third / np.maximum(variance, 1e-9)
    # To the left the correction ends where it would make a quantile smaller than a lower one.
    highest = np.where(skew < 0, np.maximum(3 * deviation / np.maximum(-skew, 1e-9), 1.0), np.inf)
    z = np.minimum(z, highest)
    # A high risk asks for a quantile near the middle, where the correction would take off what a large block may need.
    crowd = expected + z * deviation + np.maximum(z * z - 1, 0.0) / 6 * skew
    crowd[among < _MANY] = np.inf
    level = np.searchsorted(LEVELS, 1 - risks / among - 1e-12)
    plan = np.empty_like(bernstein)
    for one in np.unique(level):
        plan[level == one] = np.cumsum((stays[:, one, None] > starts) * holds, axis=0)[first:][level == one]
    fits: npt.NDArray[np.bool_] = (np.minimum(np.minimum(bernstein, crowd), plan) <= capacity).all(axis=1)
    for place, count in enumerate(among[: max(_MANY - among[0], 0)].tolist()):
        if not fits[place]:
            chance = _overflow(loads[:count], there[:count], holds[:count], capacity)
            fits[place] = (chance <= risks[place] + 1e-12).all()
    return fits


def _overflow(
    loads: Sequence[Load], there: npt.NDArray[np.float64], holds: npt.NDArray[np.float64], capacity: int
) -> npt.NDArray[np.float64]:
    """[times] chance that so few requests need more than the pool: a sum over who may be there still.

    Siblings are a mixture: with a chance of `shared` all of a group compare their chance to be there with one random
    number, else each with its own.
    """
    # [subsets, requests] who is in which subset.
    present = (np.arange(1 << len(loads))[:, None] >> np.arange(len(loads)) & 1).astype(bool)
    chance = np.ones((len(present), there.shape[1]))
    for places in _siblings(loads):
        inside, its = present[:, places, None], there[places]
        alone = np.where(inside, its, 1 - its).prod(axis=1)
        if len(places) > 1:
            shared = max(loads[place].shared for place in places)
            least = np.where(inside, its, 1.0).min(axis=1)
            most = np.where(inside, 0.0, its).max(axis=1)
            alone = shared * np.maximum(least - most, 0.0) + (1 - shared) * alone
        chance *= alone
    # One after the other, in the same order on every rank.
    use = np.zeros_like(chance)
    for place in range(len(loads)):
        use += present[:, place, None] * holds[place]
    over: npt.NDArray[np.float64] = (chance * (use > capacity)).sum(axis=0)
    return over


def _siblings(loads: Sequence[Load]) -> Iterable[list[int]]:
    """Places of the members of each group; of those without doubt in common, each by itself."""
    groups: dict[object, list[int]] = {}
    for place, load in enumerate(loads):
        groups.setdefault(load.group if load.group is not None and load.shared > 0 else place, []).append(place)
    return groups.values()


def _doubt(
    loads: Sequence[Load], there: npt.NDArray[np.float64], holds: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """[requests, times] variance that each request adds to those before it, and the size of what leaves together.

    What siblings have in common moves them all at once: standard deviations add up, not variances.
    """
    own = there * (1 - there) * holds**2
    blocks = holds.copy()
    for places in _siblings(loads):
        if len(places) == 1:
            continue
        shared = np.array([loads[place].shared for place in places])[:, None]
        common = np.sqrt(shared * own[places])
        until = np.cumsum(common, axis=0)
        # A block is as large as its members so far, as far as they move together.
        blocks[places] = (1 - shared) * holds[places] + shared * np.cumsum(holds[places], axis=0)
        own[places] = (1 - shared) * own[places] + until**2 - (until - common) ** 2
    return own, blocks


def _survival(points: npt.NDArray[np.float64], times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[requests, times] chance that a request stays beyond each time. points: [requests, levels] its quantiles."""
    survival = np.zeros((len(points), len(times)))
    for level in range(1, len(LEVELS)):
        low, high = points[:, level - 1, None], points[:, level, None]
        share = np.clip((high - times) / np.maximum(high - low, 1e-9), 0.0, 1.0)
        survival += (LEVELS[level] - LEVELS[level - 1]) * share
    return np.minimum(survival, 1.0)


def victims(running: Sequence[Load]) -> list[int]:
    """The running requests in the order in which to retract them: least work lost first.

    Lost is what must be computed again: KV that no prefix cache keeps. Among equals, whoever would have stayed longest
    goes first, then the last in the sequence.
    """
    median = LEVELS.index(0.5)

    def loss(place: int) -> tuple[int, float, int]:
        load = running[place]
        stay = load.remaining_tokens[median]
        return load.kv_tokens - load.cached_tokens, -min(stay, load.chunk_tokens or stay), -place

    return sorted(range(len(running)), key=loss)
