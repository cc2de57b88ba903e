"""Which nodes are kept: against enumeration of all subtrees, and Seer's algorithm 1 against its own definition."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_seer.draft.budget import Allocation, Candidates, allocate, marginal_benefit

# Few values, exact in binary: ties are frequent and sums have no rounding.
SHARES = [1.0, 0.5, 0.25, 0.75]


@dataclass
class Batch:
    """Trees as plain lists: parents (-1 below the root) and path probabilities of each request."""

    parents: list[list[int]]
    paths: list[list[float]]
    priorities: list[float]

    @property
    def flat(self) -> np.ndarray:
        return np.array(list(itertools.chain.from_iterable(self.paths)))

    @property
    def starts(self) -> np.ndarray:
        return np.cumsum([0, *map(len, self.parents)])

    def candidates(self, **options: Any) -> Candidates:
        return Candidates(self.flat, self.starts, priorities=self.priorities, **options)


@st.composite
def batches(draw: st.DrawFn, most_nodes: int = 5) -> Batch:
    parents, paths = [], []
    for _ in range(draw(st.integers(1, 4))):
        tree: list[int] = []
        path: list[float] = []
        for node in range(draw(st.integers(0, most_nodes))):
            parent = draw(st.integers(-1, node - 1))
            tree.append(parent)
            path.append(draw(st.sampled_from(SHARES)) * (path[parent] if parent >= 0 else 1.0))
        parents.append(tree)
        paths.append(path)
    priorities = draw(st.lists(st.sampled_from([1.0, 2.0]), min_size=len(parents), max_size=len(parents)))
    return Batch(parents, paths, priorities)


def best_subtrees(batch: Batch, width: int) -> list[list[float]]:
    """For each request, the most that a subtree of 0, 1, ... width nodes adds, by looking at every subset."""
    best = []
    for tree, path in zip(batch.parents, batch.paths, strict=True):
        most = [0.0] * (width + 1)
        for size in range(1, min(width, len(tree)) + 1):
            for nodes in itertools.combinations(range(len(tree)), size):
                if all(tree[node] in (-1, *nodes) for node in nodes):
                    most[size] = max(most[size], sum(path[node] for node in nodes))
        best.append(most)
    return best


def best_by_total(batch: Batch, width: int) -> list[float]:
    """Worth of the best choice of subtrees with at most 0, 1, 2, ... nodes in all."""
    worths = [sum(batch.priorities)]
    for most, priority in zip(best_subtrees(batch, width), batch.priorities, strict=True):
        longer = [-math.inf] * (len(worths) + width)
        for total, worth in enumerate(worths):
            for size, gain in enumerate(most):
                longer[total + size] = max(longer[total + size], worth + priority * gain)
        worths = longer
    return list(itertools.accumulate(worths, max))


def worth_of(batch: Batch, allocation: Allocation) -> float:
    gains = np.where(allocation.keep, batch.flat, 0.0)
    return sum(
        priority * (1.0 + gains[start:stop].sum())
        for priority, start, stop in zip(batch.priorities, batch.starts[:-1], batch.starts[1:], strict=True)
    )


def check_shape(batch: Batch, allocation: Allocation, width: int) -> None:
    """Counts agree with the mask, no request has more than the width, and no node lacks its parent."""
    kept = [allocation.keep[a:b] for a, b in zip(batch.starts[:-1], batch.starts[1:], strict=True)]
    assert allocation.counts.tolist() == [int(mask.sum()) for mask in kept]
    assert allocation.counts.max() <= min(allocation.width, width)
    for mask, tree in zip(kept, batch.parents, strict=True):
        assert all(tree[node] == -1 or mask[tree[node]] for node in np.flatnonzero(mask))
    expected = len(kept) + batch.flat[allocation.keep].sum()
    assert allocation.expected_tokens == pytest.approx(expected)


times = st.lists(st.integers(1, 64), min_size=40, max_size=40).map(lambda steps: np.cumsum(steps) / 64.0)


@given(batches(), times, st.sampled_from([0.0, 0.5]))
@settings(max_examples=200, deadline=None)
def test_padded_maximum_over_all_widths_and_subtrees(batch: Batch, table: np.ndarray, draft: float) -> None:
    widths = (0, 1, 3, 5)
    requests = len(batch.parents)
    allocation = allocate(batch.candidates(), lambda rows: table[rows], widths, draft_seconds=draft)
    check_shape(batch, allocation, 5)
    rates = {}
    for width in widths:
        gains = [max(most) for most in best_subtrees(batch, width)]
        worth = sum(p * (1 + gain) for p, gain in zip(batch.priorities, gains, strict=True))
        rates[width] = worth / (table[requests * (1 + width)] + draft)
    assert worth_of(batch, allocation) / (table[requests * (1 + allocation.width)] + draft) == max(rates.values())
    assert allocation.width == min(width for width in widths if rates[width] == max(rates.values()))


@given(batches(), times, st.integers(0, 5), st.sampled_from([0.0, 0.5]))
@settings(max_examples=200, deadline=None)
def test_ragged_maximum_over_all_subtrees(batch: Batch, table: np.ndarray, most: int, draft: float) -> None:
    requests = len(batch.parents)
    widths = tuple(range(most + 1))
    allocation = allocate(batch.candidates(), lambda rows: table[rows], widths, ragged=True, draft_seconds=draft)
    check_shape(batch, allocation, most)
    rates = [worth / (table[requests + total] + draft) for total, worth in enumerate(best_by_total(batch, most))]
    assert worth_of(batch, allocation) / (table[requests + allocation.counts.sum()] + draft) == max(rates)


@given(batches(), st.integers(0, 20), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_spend_is_the_best_use_of_a_total(batch: Batch, total: int, width: int) -> None:
    allocation = batch.candidates().spend(total, width)
    check_shape(batch, allocation, width)
    best = best_by_total(batch, width)
    assert allocation.counts.sum() <= total
    assert worth_of(batch, allocation) == best[min(total, len(best) - 1)]


@given(batches(), st.integers(0, 20), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_nodes_below_the_floor_are_left_out(batch: Batch, total: int, floor: float, diminishing: bool) -> None:
    candidates = batch.candidates(min_probability=floor)
    eligible = batch.flat >= floor
    for allocation in (candidates.widest(5), candidates.spend(total, 5, diminishing=diminishing)):
        check_shape(batch, allocation, 5)
        assert not np.any(allocation.keep & ~eligible)
    assert np.array_equal(candidates.widest(5).keep, eligible)


@given(st.integers(0, 10_000), st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_diminishing_worth_is_taken_greedily(seed: int, total: int) -> None:
    random = np.random.default_rng(seed)
    chains = [np.cumprod(random.uniform(0.2, 1.0, random.integers(1, 9))) for _ in range(4)]
    weights = random.choice([1.0, 3.0], 4)
    kept = [0] * 4
    for _ in range(min(total, sum(map(len, chains)))):
        gain = [
            weights[i] * chain[n] / (1.0 + chain[:n].sum()) if n < len(chain) else -1.0
            for i, (chain, n) in enumerate(zip(chains, kept, strict=True))
        ]
        kept[int(np.argmax(gain))] += 1
    starts = np.cumsum([0, *map(len, chains)])
    candidates = Candidates(np.concatenate(chains), starts, priorities=weights)
    assert candidates.spend(total, 8, diminishing=True).counts.tolist() == kept


def test_ties_go_to_the_smaller_request_then_to_the_smaller_node() -> None:
    candidates = Candidates([0.5, 0.25, 0.25, 0.5, 0.25, 0.25], [0, 3, 6])
    assert candidates.spend(3, 3).keep.tolist() == [True, True, False, True, False, False]
    assert candidates.widest(2).keep.tolist() == [True, True, False, True, True, False]
    alike = Candidates(np.full(120, 0.5), [0, 60, 120])
    assert np.flatnonzero(alike.spend(70, 64).keep).tolist() == list(range(70))
    # With diminishing worth the requests take turns, each from its first node on.
    assert np.flatnonzero(alike.spend(41, 64, diminishing=True).keep).tolist() == [*range(21), *range(60, 80)]
    mixed = Candidates(np.tile([0.25, 0.5], 32), [0, 64])
    wanted = [*range(1, 64, 2), *range(0, 16, 2)]
    assert np.flatnonzero(mixed.spend(40, 64, diminishing=True).keep).tolist() == sorted(wanted)


def test_priority_moves_nodes_to_the_request() -> None:
    """Alone, the second request's 0.5 is worth less than the first one's 0.8; as a probe's it is worth more."""
    paths, starts = [0.8, 0.6, 0.5, 0.4], [0, 2, 4]
    assert Candidates(paths, starts).spend(2, 2).counts.tolist() == [2, 0]
    assert Candidates(paths, starts, priorities=[1.0, 2.5]).spend(2, 2).counts.tolist() == [0, 2]
    assert Candidates(paths, starts, priorities=[1.0, 1.5]).spend(2, 2).counts.tolist() == [1, 1]


def test_stays_with_the_previous_width_within_the_margin() -> None:
    candidates = Candidates([0.5, 0.25], [0, 2])
    table = np.array([0.0, 1.0, 1.46, 1.75])  # rates 1, 1.027, 1

    def decide(previous: int | None, margin: float) -> int:
        times = lambda rows: table[rows]  # noqa: E731
        return allocate(candidates, times, (0, 1, 2), previous_width=previous, margin=margin).width

    assert decide(None, 0.05) == 1
    assert decide(2, 0.05) == 2
    assert decide(2, 0.02) == 1
    assert decide(7, 0.05) == 1


def accepted_and_rejected(paths: np.ndarray, keep: np.ndarray) -> tuple[float, float]:
    return float(paths[keep].sum()), float((1.0 - paths[keep]).sum())


@pytest.mark.parametrize(("shares", "low", "high"), [((0.25, 0.9), 0.0, 0.5), ((0.6, 0.6), 0.99, 1.01)])
def test_equal_acceptance_with_half_of_the_rejected_nodes(shares: tuple[float, float], low: float, high: float) -> None:
    """Four hard requests to one easy one, chains of 16; the baseline drafts 8 nodes for each.

    The second case is the control: where all requests are alike there is nothing to gain.
    """
    chains = np.concatenate([np.cumprod(np.full(16, shares[request % 5 == 0])) for request in range(50)])
    candidates = Candidates(chains, np.arange(51) * 16)
    accepted, rejected = accepted_and_rejected(chains, candidates.widest(8).keep)
    totals = range(1, 50 * 8 + 1)
    for total in totals:
        got, wasted = accepted_and_rejected(chains, candidates.spend(total, 16).keep)
        if got >= accepted - 1e-9:
            break
    assert low <= wasted / rejected <= high


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"probabilities": [0.5, 1.5], "starts": [0, 2]}, "probabilities"),
        ({"probabilities": [0.5, math.nan], "starts": [0, 2]}, "probabilities"),
        ({"probabilities": [[0.5]], "starts": [0, 1]}, "probabilities"),
        ({"probabilities": [0.5], "starts": [0]}, "starts"),
        ({"probabilities": [0.5], "starts": [0, 2]}, "starts"),
        ({"probabilities": [0.5], "starts": [1, 1]}, "starts"),
        ({"probabilities": [0.5], "starts": [0, 2, 1]}, "starts"),
        ({"probabilities": [0.5], "starts": [0, 1], "priorities": [1.0, 1.0]}, "priorities"),
        ({"probabilities": [0.5], "starts": [0, 1], "priorities": [0.0]}, "priorities"),
        ({"probabilities": [0.5], "starts": [0, 1], "priorities": [math.inf]}, "priorities"),
        ({"probabilities": [0.5], "starts": [0, 1], "min_probability": 1.5}, "min_probability"),
    ],
)
def test_bad_candidates(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: got"):
        Candidates(**arguments)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"widths": (1, 2)}, "widths"),
        ({"widths": (0, 2, 2)}, "widths"),
        ({"widths": ()}, "widths"),
        ({"draft_seconds": -1.0}, "draft_seconds"),
        ({"margin": math.nan}, "draft_seconds, margin"),
        ({"seconds": lambda rows: rows * 0.0}, "seconds"),
        ({"seconds": lambda rows: rows[:1] * 1.0}, "seconds"),
    ],
)
def test_bad_allocation(changes: dict[str, Any], field: str) -> None:
    arguments = {"seconds": lambda rows: rows * 1.0, "widths": (0, 1), **changes}
    with pytest.raises(ValueError, match=f"^{field}"):
        allocate(Candidates([0.5], [0, 1]), **arguments)


def test_bad_totals() -> None:
    with pytest.raises(ValueError, match=r"^total, width: got -1"):
        Candidates([0.5], [0, 1]).spend(-1, 2)
    with pytest.raises(ValueError, match=r"^width: got -1"):
        Candidates([0.5], [0, 1]).widest(-1)


def printed_algorithm(high: int, low: int, beta: dict[int, float], seconds: list[float], factor: float) -> tuple:
    """Algorithm 1 line by line, positions counted from 1; T_SD by its closed form."""
    longest = len(seconds) - 1
    alpha = sum(beta[position] for position in range(1, longest + 1)) / longest
    best, best_time = 0, math.inf
    for gamma, step in enumerate(seconds):
        expected = gamma + 1 if alpha == 1 else (1 - alpha ** (gamma + 1)) / (1 - alpha)
        if step / expected < best_time - 1e-12:
            best, best_time = gamma, step / expected
    budget = best * (high + low)
    if budget < high:
        return 0, 0
    h, l, remaining = 1, 0, budget - high  # noqa: E741
    while remaining > 0:
        gain_h = high * (beta[h] - beta[h + 1])
        gain_l = low * (beta[l] - beta[l + 1])
        if gain_h > factor * gain_l and h < longest and remaining >= high:
            h, remaining = h + 1, remaining - high
        elif low > 0 and l < longest and remaining >= low:
            l, remaining = l + 1, remaining - low  # noqa: E741
        else:
            break
    return h, l


@given(
    st.integers(0, 20),
    st.integers(0, 20),
    st.lists(st.integers(0, 64).map(lambda share: share / 64), min_size=1, max_size=8),
    st.lists(st.integers(1, 40), min_size=8, max_size=8),
    st.sampled_from([1.0, 2.0, 4.0]),
)
@settings(max_examples=300, deadline=None)
def test_marginal_benefit_is_the_printed_algorithm(
    high: int, low: int, shares: list[float], increments: list[int], factor: float
) -> None:
    if high + low == 0:
        high = 1
    acceptance = sorted(shares, reverse=True)
    seconds = [100.0 + sum(increments[:n]) for n in range(len(acceptance) + 1)]
    beta = {0: 1.0, **dict(enumerate(acceptance, 1)), len(acceptance) + 1: 0.0}
    expected = printed_algorithm(high, low, beta, seconds, factor)
    assert marginal_benefit(high, low, acceptance, seconds, priority=factor) == expected


def test_marginal_benefit_by_hand() -> None:
    """Flat times: the best length is 4, the total 8. One request a class, acceptance drops 1/8, 3/8, 2/8, 1/8, 1/8.

    From (1, 0): 3/8 > 2 * 1/8, so high; at (2, 0) 2/8 is not more than 2 * 1/8, so low, and so on until low has all 4
    positions; there 2/8 > 2 * 1/8 fails once more and low can get no more: two of the eight remain unspent.
    """
    acceptance = [7 / 8, 4 / 8, 2 / 8, 1 / 8]
    assert marginal_benefit(1, 1, acceptance, [1.0] * 5) == (2, 4)
    # Without the factor the high class gets its third position at once (2/8 > 1/8), then 1/8 is not more than 1/8.
    assert marginal_benefit(1, 1, acceptance, [1.0] * 5, priority=1.0) == (3, 4)
    # Twice the time for one draft of probability 1/2: plain decoding.
    assert marginal_benefit(3, 5, [0.5], [1.0, 2.0]) == (0, 0)
    # The same at 1.4 times the time pays (1.5 tokens): everyone has one token.
    assert marginal_benefit(3, 5, [0.5], [1.0, 1.4]) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((0, 0, [0.5], [1.0, 1.0]), "high, low"),
        ((-1, 2, [0.5], [1.0, 1.0]), "high, low"),
        ((1, 1, [0.5], [1.0, 1.0, 1.0]), "acceptance, step_seconds"),
        ((1, 1, [0.5], [1.0]), "acceptance, step_seconds"),
        ((1, 1, [1.5], [1.0, 1.0]), "acceptance"),
        ((1, 1, [0.5], [1.0, 0.0]), "step_seconds"),
        ((1, 1, [0.5], [1.0, 1.0], 0.5), "priority"),
    ],
)
def test_bad_marginal_benefit(arguments: tuple, field: str) -> None:
    *rest, priority = arguments if len(arguments) == 5 else (*arguments, 2.0)
    with pytest.raises(ValueError, match=f"^{field}: got"):
        marginal_benefit(*rest, priority=priority)
