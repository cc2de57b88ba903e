"""Admission against exact probabilities of small batches and random rollouts of large ones; who is retracted first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_seer.config import SeerConfig
from sglang_seer.context.remaining import Exactly, LogNormal
from sglang_seer.schedule import Load, admit, risk_of, victims
from sglang_seer.schedule import admission as module
from sglang_seer.schedule.admission import DEFAULT_STAKE, LEVELS, _overflow


def exactly(kv: int, tokens: float, **more: Any) -> Load:
    load = Load.of(kv, Exactly(tokens))
    return replace(load, **more)


def peak(batch: list[tuple[int, float]]) -> float:
    """Most KV that requests of (held now, tokens until they leave) hold together, gaining a token a step."""
    return max(sum(held + end for held, stay in batch if stay >= end) for _, end in batch)


def chance_of_overflow(batch: list[Load], capacity: int) -> float:
    """By going through every combination of two places in each level, as the distribution is even within a level."""
    outcomes = []
    for load in batch:
        points, cut = load.remaining_tokens, load.chunk_tokens or 1e9
        ends = [
            (min(low + (high - low) * (place + 0.5) / 2, cut), (upper - lower) / 2)
            for (low, high), (lower, upper) in zip(pairwise(points), pairwise(LEVELS), strict=True)
            for place in range(2)
        ]
        outcomes.append([((load.kv_tokens + load.reserve_tokens, end), weight) for end, weight in ends])
    return sum(
        prod(weight for _, weight in outcome)
        for outcome in product(*outcomes)
        if peak([one for one, _ in outcome]) > capacity
    )


@st.composite
def loads(draw: st.DrawFn) -> Load:
    points = sorted(draw(st.lists(st.integers(1, 1000), min_size=len(LEVELS), max_size=len(LEVELS))))
    chunk = draw(st.none() | st.integers(1, 500))
    return Load(draw(st.integers(0, 500)), tuple(map(float, points)), draw(st.integers(0, 20)), chunk)


@given(
    st.lists(loads(), max_size=1),
    st.lists(loads(), min_size=1, max_size=2),
    st.integers(1, 4000),
    st.sampled_from([0.02, 0.1, 0.3]),
)
@settings(max_examples=150, deadline=None)
def test_small_batches_keep_the_risk_exactly(
    running: list[Load], waiting: list[Load], capacity: int, risk: float
) -> None:
    admitted = admit(running, waiting, capacity, risk=risk)
    if admitted > (not running):
        # Bounds are at each time; over all times together a batch of two has at most that many chances.
        batch = running + waiting[:admitted]
        assert chance_of_overflow(batch, capacity) <= risk * len(batch)


@pytest.mark.parametrize(
    ("running", "waiting", "capacity", "admitted"),
    [
        # Two equals need 2 x (10 + 50) at their end.
        ([exactly(10, 50)], [exactly(10, 50)], 120, 1),
        ([exactly(10, 50)], [exactly(10, 50)], 119, 0),
        # The first leaves at 20: then 2 x (10 + 20); the other alone reaches 10 + 60.
        ([exactly(10, 20)], [exactly(10, 60)], 70, 1),
        ([exactly(10, 20)], [exactly(10, 60)], 69, 0),
        # Drafts of a step need room too.
        ([exactly(10, 50, reserve_tokens=4)], [exactly(10, 50)], 124, 1),
        ([exactly(10, 50, reserve_tokens=4)], [exactly(10, 50)], 123, 0),
        # A request that yields after 5 tokens needs no more than those.
        ([exactly(10, 50, chunk_tokens=5)], [exactly(10, 50)], 60, 1),
        ([exactly(10, 50, chunk_tokens=5)], [exactly(10, 50)], 59, 0),
        # The head waits: nobody goes past it.
        ([exactly(10, 50)], [exactly(200, 50), exactly(1, 1)], 120, 0),
        # Whoever would run alone runs.
        ([], [exactly(500, 50), exactly(1, 1)], 120, 1),
        ([exactly(1, 1)], [], 120, 0),
        ([], [exactly(1, 9)] * 200, 1000, 100),
    ],
)
def test_known_lengths_fill_the_pool_exactly(
    running: list[Load], waiting: list[Load], capacity: int, admitted: int
) -> None:
    assert admit(running, waiting, capacity) == admitted


@given(st.lists(loads(), max_size=6), st.lists(loads(), max_size=6), st.integers(1, 9000), st.integers(0, 3000))
@settings(max_examples=150, deadline=None)
def test_more_room_or_less_fear_admits_no_fewer(
    running: list[Load], waiting: list[Load], capacity: int, more: int
) -> None:
    admitted = admit(running, waiting, capacity, risk=0.05)
    assert admitted <= admit(running, waiting, capacity + more, risk=0.05)
    assert admitted <= admit(running, waiting, capacity, risk=0.2)


def test_many_with_one_that_is_large_and_almost_surely_stays() -> None:
    """It is there after a token with a chance of 0.98, and then they need 7 x 151 + 1150 = 2207."""
    large = Load(1000, tuple(1.0 if level <= 0.02 else 150.0 for level in LEVELS))
    crowd = [exactly(1, 200)] * 7
    assert admit(crowd, [large], 2206, risk=0.05) == admit(crowd, [large], 2206, risk=0.2) == 0
    assert admit(crowd, [large], 2207, risk=0.05) == 1


def fill(rng: np.random.Generator, requests: int, chunk: int | None, risk: float) -> tuple[float, float, float]:
    """(overflow share, mean use of the pool at its peak, admitted) over random rollouts filled by `admit`.

    Lengths are drawn from the very distributions that `admit` is given.
    """
    overflows, uses, count = [], [], []
    for _ in range(60):
        spread = 0.6
        centres = rng.normal(7, 0.5, 3 * requests)
        held = rng.integers(50, 500, 3 * requests)
        done = rng.integers(0, 300, 3 * requests)
        waiting = [
            Load.of(int(kv), LogNormal(float(centre), spread, int(had), 20_000), chunk_tokens=chunk)
            for centre, kv, had in zip(centres, held, done, strict=True)
        ]
        capacity = requests * 1500
        admitted = admit([], waiting, capacity, risk=risk)
        count.append(admitted)
        for _ in range(20):
            batch = []
            for place in range(admitted):
                response = LogNormal(float(centres[place]), spread, int(done[place]), 20_000)
                stay = response.quantile(float(rng.random()))
                batch.append((int(held[place]), min(stay, chunk or stay)))
            uses.append(peak(batch) / capacity)
            overflows.append(uses[-1] > 1)
    return float(np.mean(overflows)), float(np.mean(uses)), float(np.mean(count))


@pytest.mark.parametrize("chunk", [None, 500])
@pytest.mark.parametrize("requests", [4, 10, 40])
def test_random_rollouts_overflow_no_more_often_than_the_risk(requests: int, chunk: int | None) -> None:
    """1,200 rollouts: a true risk of 8% would be seen as more than 5% with near certainty."""
    overflow, use, _ = fill(np.random.default_rng(requests), requests, chunk, risk=0.05)
    assert overflow <= 0.05
    # A rule that admits next to nothing would pass the above.
    assert use > (0.25 if requests == 4 else 0.5)


@pytest.mark.parametrize("requests", [10, 40])
@pytest.mark.parametrize("risk", [0.15, 0.3])
def test_a_higher_risk_is_kept_as_well(requests: int, risk: float) -> None:
    """The bounds are at each time; over all of them together some more overflow."""
    overflow, use, _ = fill(np.random.default_rng(requests), requests, None, risk=risk)
    assert 0.3 * risk < overflow <= 1.6 * risk
    assert use > 0.6


def overflow_of_siblings(shared: float) -> float:
    """Share of overflows where whole groups of eight are admitted and prompts differ more than samples.

    shared: what `admit` is told of that, 0 to 1.
    """
    rng, overflows, between, within = np.random.default_rng(9), 0, 0.5, 0.3
    whole = (between**2 + within**2) ** 0.5
    waiting = [Load.of(100, LogNormal(7.0, whole, 0, 20_000, shared), group=f"g{n // 8}") for n in range(64)]
    admitted = admit([], waiting, 40_000, risk=0.05)
    assert admitted >= 8
    for _ in range(1000):
        centres = rng.normal(7.0, between, 8)
        lengths = np.exp([rng.normal(centres[n // 8], within) for n in range(admitted)])
        overflows += peak([(100, min(float(length), 20_000.0)) for length in lengths]) > 40_000
    return overflows / 1000


def test_siblings_overflow_together() -> None:
    assert overflow_of_siblings(0.5**2 / (0.5**2 + 0.3**2)) <= 0.06


def test_siblings_taken_for_strangers_overflow() -> None:
    """Negative control."""
    assert overflow_of_siblings(0.0) > 0.12


@st.composite
def small_batches(draw: st.DrawFn) -> tuple[list[Load], np.ndarray, np.ndarray]:
    """Up to six requests of a few groups; chances to be there and what each would hold, [requests, 3 times]."""
    count = draw(st.integers(1, 6))
    shared = draw(st.sampled_from([0.0, 0.4, 1.0]))
    batch = [exactly(1, 1, group=draw(st.sampled_from([None, "a", "b"])), shared=shared) for _ in range(count)]
    cells = st.lists(st.integers(0, 10), min_size=3, max_size=3)
    there = np.array([draw(cells) for _ in batch]) / 10
    return batch, there, np.array([draw(cells) for _ in batch], dtype=np.float64)


@given(small_batches(), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_the_chance_of_few_is_what_sampling_finds(
    drawn: tuple[list[Load], np.ndarray, np.ndarray], capacity: int
) -> None:
    batch, there, holds = drawn
    rng, draws = np.random.default_rng(0), 20_000
    alone = rng.random((draws, len(batch)))
    for group in "ab":
        # Either all siblings compare with one number, or each with its own.
        together = rng.random(draws) < max((one.shared for one in batch if one.group == group), default=0.0)
        common = rng.random(draws)
        for place, one in enumerate(batch):
            if one.group == group:
                alone[together, place] = common[together]
    stay = alone[:, :, None] < there
    sampled = ((stay * holds).sum(axis=1) > capacity).mean(axis=0)
    assert _overflow(batch, there, holds, capacity) == pytest.approx(sampled, abs=0.02)


def one_by_one(risk: Callable[[int], float]) -> int:
    """How many of sixteen join, as the engine asks for each, where the pool holds two and a half limits.

    Their mean is a seventh of the limit; siblings are alike.
    """
    running: list[Load] = []
    while len(running) < 16:
        response = LogNormal(5.3, 0.9, 0, 2048, 0.6)
        candidate = Load.of(50, response, reserve_tokens=34, group=f"g{len(running) // 8}")
        if not admit(running, [candidate], 5300, risk=risk(len(running) + 1)):
            break
        running.append(candidate)
    return len(running)


def test_short_responses_run_together_though_the_limit_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one_by_one(risk_of) > 12
    # Negative controls: the same small chance for few and for many; no exact chance for few.
    assert one_by_one(lambda _: 0.005) < 4
    monkeypatch.setattr(module, "_overflow", lambda *_: np.ones(1))
    assert one_by_one(risk_of) < 8


def test_fewer_may_risk_more() -> None:
    assert SeerConfig().overflow_risk == DEFAULT_STAKE
    assert [risk_of(requests, 2.0) for requests in (1, 2, 4, 200)] == [0.9, 0.9, 0.5, 0.01]
    # However small: a quantile of 1 is none.
    assert (
        admit([exactly(10, 50)] * 20, [exactly(10, 50)], 10_000, risk=lambda requests: risk_of(requests, 1e-300)) == 1
    )
    for requests, stake in [(0, 1.0), (1, 0.0)]:
        with pytest.raises(ValueError, match="risk_of: got"):
            risk_of(requests, stake)


def test_a_risk_that_falls_is_each_requests_own() -> None:
    """Asked together or one by one, with a risk that depends on how many run."""

    def asked(together: int) -> int:
        running: list[Load] = []
        while True:
            waiting = [Load.of(50, LogNormal(5.3, 0.9, 0, 2048), reserve_tokens=34)] * together
            admitted = admit(running, waiting, 3000, risk=risk_of)
            running += waiting[:admitted]
            if admitted < together:
                return len(running)

    assert asked(1) == asked(64) > 8


def test_a_careless_risk_overflows() -> None:
    overflow, _, careless = fill(np.random.default_rng(4), 40, None, risk=0.9)
    _, _, careful = fill(np.random.default_rng(4), 40, None, risk=0.05)
    assert overflow > 0.05 and careless > careful


def test_reserving_the_limit_would_admit_far_fewer() -> None:
    waiting = [Load.of(100, LogNormal(7.0, 0.6, 0, 20_000)) for _ in range(100)]
    certain = [exactly(100, 20_000) for _ in range(100)]
    assert admit([], waiting, 60_000) > 5 * admit([], certain, 60_000)


def test_victims_lose_least_work_first() -> None:
    running = [
        exactly(900, 10, cached_tokens=850),  # loses 50
        exactly(30, 10),
        exactly(200, 10),
        exactly(200, 99),
        exactly(200, 99, chunk_tokens=5),
        exactly(200, 10),
    ]
    # Among equals whoever stays longest, then the newest.
    assert victims(running) == [1, 0, 3, 5, 2, 4]
    assert victims([]) == []


@given(st.lists(loads(), max_size=8))
def test_no_earlier_victim_loses_more(running: list[Load]) -> None:
    order = victims(running)
    lost = [running[place].kv_tokens - running[place].cached_tokens for place in order]
    assert sorted(order) == list(range(len(running))) and lost == sorted(lost)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kv_tokens": -1}, "kv_tokens: got -1"),
        ({"reserve_tokens": -2}, "reserve_tokens: got -2"),
        ({"cached_tokens": 11}, "cached_tokens: got 11, wanted at most kv_tokens = 10"),
        ({"chunk_tokens": 0}, "chunk_tokens: got 0"),
        ({"remaining_tokens": (5.0,)}, "remaining_tokens: got"),
        ({"remaining_tokens": (5.0,) * 16 + (4.0,)}, "ascending"),
    ],
)
def test_impossible_loads(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Load(**({"kv_tokens": 10, "remaining_tokens": (5.0,) * 17} | wrong))  # type: ignore[arg-type]


def test_impossible_pools_and_risks() -> None:
    with pytest.raises(ValueError, match="risk: got 1"):
        admit([], [], 10, risk=1)
    with pytest.raises(ValueError, match="capacity_tokens: got 0"):
        admit([], [], 0)
