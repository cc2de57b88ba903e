"""The controller against synthetic engines: every fixed width in hindsight, exploration, rest and return."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from sglang_seer.draft.controller import LONGEST_REST, NEW_EVERY, SAMPLES, STALE_EVERY, Controller
from sglang_seer.draft.step_time import DraftObservation, StepObservation, StepTimes

WIDTHS = np.array([0, 4, 8, 16])
NODES = 16
Truth = Callable[[int, int, int], float]


def dense(batch: int, rows: int, context: int) -> float:
    """Flat up to a knee at 500 rows, then linear."""
    return 2e-3 + (rows > batch) * 2e-4 + 4e-6 * batch + max(6e-3, 1.2e-5 * rows) + 4e-9 * context


def experts(batch: int, rows: int, context: int) -> float:
    """Steep up to a few dozen rows, then flatter."""
    return 5e-3 + 8e-6 * batch + 9e-3 * (1.0 - math.exp(-rows / 20)) + 1.2e-5 * rows + 4e-9 * context


@dataclass
class Outcome:
    """fixed: [widths] tokens per second of each fixed width. adaptive: of the controller. kept: nodes in each step."""

    fixed: np.ndarray
    adaptive: float
    widths: list[int]
    drafts: int
    explored: int
    kept: list[int] = field(default_factory=list)


def chains(random: np.random.Generator, batch: int, share: float) -> np.ndarray:
    """[batch, NODES] path probabilities of one chain a request; `share` of its tokens is accepted, more or less."""
    shares = np.clip(random.normal(share, 0.2, batch), 0.02, 0.98)[:, None]
    return np.cumprod(random.beta(8 * shares, 8 * (1 - shares), (batch, NODES)), axis=1)


def simulate(
    truth: Truth, batches: Sequence[int], shares: Sequence[float], *, draft: float = 0.0, **options: Any
) -> Outcome:
    """Run the controller beside all fixed widths on the same proposals; it sees noisy times, 32 steps late.

    draft: seconds of drafting for one request. One step in 50 is measured as taking five times as long.
    """
    random = np.random.default_rng(0)
    times = StepTimes()
    controller = Controller(times, widths=WIDTHS.tolist(), **options)
    ragged = options.get("ragged", False)
    fixed = np.zeros((2, len(WIDTHS)))
    adaptive = np.zeros(2)
    steps, drafts = [], []
    outcome = Outcome(fixed[0], 0.0, [], 0, 0)
    for step, (batch, share) in enumerate(zip(batches, shares, strict=True)):
        context = batch * (200 + step)
        paths = chains(random, batch, share)
        for place, width in enumerate(WIDTHS):
            fixed[0, place] += batch + paths[:, :width].sum()
            fixed[1, place] += truth(batch, batch * (1 + width), context) + (width > 0) * batch * draft
        tokens, rows, spent, width = float(batch), batch, 0.0, 0
        if controller.nodes(batch):
            allocation = controller.decide(paths.ravel(), np.arange(batch + 1) * NODES, context=context)
            tokens, width, spent = allocation.expected_tokens, allocation.width, batch * draft
            rows = batch + int(allocation.counts.sum()) if ragged else batch * (1 + width)
            outcome.drafts += 1
            if draft:
                drafts.append(DraftObservation(batch=batch, nodes=NODES, seconds=spent))
        seconds = truth(batch, rows, context)
        adaptive += tokens, seconds + spent
        noise = (1.0 + 0.03 * random.standard_normal()) * (5.0 if random.random() < 0.02 else 1.0)
        steps.append(StepObservation(batch=batch, rows=rows, context=context, seconds=seconds * noise))
        if len(steps) == 32:
            times.observe(steps, drafts)
            steps, drafts = [], []
        outcome.widths.append(width)
        outcome.kept.append(rows - batch)
    outcome.fixed = fixed[0] / fixed[1]
    outcome.adaptive = adaptive[0] / adaptive[1]
    outcome.explored = controller.explored
    return outcome


ROLLOUT = [max(1, round(256 * (1 - step / 4000) ** 1.5)) for step in range(4000)]
DRIFT = [0.85 if step > 1000 and step // 500 % 2 else 0.35 for step in range(4000)]


@pytest.mark.parametrize("truth", [dense, experts])
@pytest.mark.parametrize("batch", [4, 64, 256])
@pytest.mark.parametrize("share", [0.3, 0.85])
def test_close_to_the_best_fixed_width(truth: Truth, batch: int, share: float) -> None:
    outcome = simulate(truth, [batch] * 2000, [share] * 2000)
    assert outcome.adaptive > 0.97 * outcome.fixed.max()


@pytest.mark.parametrize("truth", [dense, experts])
@pytest.mark.parametrize("ragged", [False, True])
def test_above_every_fixed_width_when_batch_and_acceptance_drift(truth: Truth, ragged: bool) -> None:
    outcome = simulate(truth, ROLLOUT, DRIFT, ragged=ragged)
    assert outcome.adaptive > 1.05 * outcome.fixed.max()
    assert outcome.fixed.max() > 1.1 * outcome.fixed.min()  # the widths differ, so the test can tell them apart


@pytest.mark.parametrize("truth", [dense, experts])
def test_exploration_is_bounded(truth: Truth) -> None:
    outcome = simulate(truth, ROLLOUT, DRIFT)
    sizes = len({batch.bit_length() for batch in ROLLOUT})
    assert outcome.explored <= sizes * len(WIDTHS) * SAMPLES + len(ROLLOUT) // STALE_EVERY
    assert outcome.explored > 0


def test_speculation_stops_where_it_does_not_pay_and_comes_back() -> None:
    """256 requests: the first 1000 steps are unpredictable, then siblings are there to copy from."""
    outcome = simulate(dense, [256] * 2000, [0.15] * 1000 + [0.9] * 1000, draft=3e-6)
    early, late = outcome.widths[200:1000], outcome.widths[1000 + LONGEST_REST + 1 :]
    assert np.mean(np.array(early) == 0) > 0.98
    assert np.mean(np.array(late) > 0) > 0.95
    # Drafting rests as well: without it, all 1000 early steps would have drafted.
    assert outcome.drafts < 1000 + 200


def test_a_smaller_batch_ends_the_rest() -> None:
    outcome = simulate(dense, [256] * 1000 + [4] * 100, [0.3] * 1100)
    assert max(outcome.widths[900:1000]) == 0
    assert max(outcome.widths[1000:1008]) > 0


def test_rests_at_most_the_longest_rest() -> None:
    outcome = simulate(dense, [256] * 2000, [0.05] * 2000)
    drafted = 0
    controller = Controller(StepTimes(), widths=WIDTHS.tolist())
    gaps, gap = [], 0
    for _ in range(1000):  # before the first observation a node costs as much as a request: nothing pays
        if controller.nodes(256):
            controller.decide(np.zeros(256), np.arange(257), context=0)
            drafted += 1
            gaps.append(gap)
            gap = 0
        else:
            gap += 1
    assert max(gaps) == LONGEST_REST
    assert drafted < 100
    assert outcome.drafts < 200


def test_new_widths_come_in_order_and_not_all_at_once() -> None:
    """Nothing known, everything would be accepted: plain decoding first, then the narrowest, one step in four."""
    controller = Controller(StepTimes(), widths=[0, 4, 8])
    tried = []
    for step in range(1, 41):
        controller.nodes(2)
        before = controller.explored
        width = controller.decide(np.ones(16), [0, 8, 16], context=10).width
        if controller.explored > before:
            tried.append((step, width))
    assert all(later - sooner >= NEW_EVERY for (sooner, _), (later, _) in itertools.pairwise(tried))
    widths = [width for _, width in tried]
    assert widths == sorted(widths)
    assert [widths.count(width) for width in (4, 8)] == [SAMPLES, SAMPLES]


def known_times(seconds_of_rows: dict[int, float], **drafts: float) -> StepTimes:
    """Two requests without context, every width measured."""
    times = StepTimes()
    steps = [StepObservation(batch=2, rows=rows, context=0, seconds=took) for rows, took in seconds_of_rows.items()]
    times.observe(steps, [DraftObservation(batch=2, nodes=NODES, seconds=took) for took in drafts.values()])
    return times


@pytest.mark.parametrize(("path", "tried"), [(0.24, 0), (0.4, SAMPLES)])
def test_no_exploration_where_a_wider_step_cannot_win(path: float, tried: int) -> None:
    """A step of 4 nodes takes 5 times as long as plain decoding, so one of 16 takes that long at least.

    With 16 nodes a request expects 1 + 16 * 0.24 tokens, less than 5 times as many, or 1 + 16 * 0.4, which is more.
    """
    controller = Controller(known_times({2: 1.0, 10: 5.0}), widths=[0, 4, 16])
    for place in (0, 1):  # both have been run often enough
        controller._runs[2, place] = SAMPLES
    widths = []
    for _ in range(50):
        if controller.nodes(2):
            widths.append(controller.decide(np.full(32, path), [0, 16, 32], context=0).width)
    assert controller.explored == widths.count(16) == tried


def test_nothing_is_explored_without_anything_to_verify() -> None:
    controller = Controller(known_times({2: 1.0, 10: 1.1, 34: 1.2}), widths=[0, 4, 16])
    for _ in range(3 * STALE_EVERY):
        if controller.nodes(2):
            controller.decide([0.0, 0.0], [0, 1, 2], context=0)
    assert controller.explored == 0


def test_what_the_draft_cost_makes_verification_cheaper() -> None:
    """Worth 1.4 for 1.5 times the time does not pay, but it does where each step costs as much again for drafting."""
    widths = []
    for drafts in ({}, {"seconds": 1.0}):
        controller = Controller(known_times({2: 1.0, 10: 1.5}, **drafts), widths=[0, 4])
        controller.nodes(2)
        widths.append(controller.decide(np.full(8, 0.1), [0, 4, 8], context=0).width)
    assert widths == [0, 4]


def test_same_calls_same_decisions() -> None:
    first, second = (simulate(dense, ROLLOUT[::8], DRIFT[::8], draft=3e-6) for _ in range(2))
    assert first.widths == second.widths
    assert first.kept == second.kept
    assert len(set(first.widths)) > 2


def test_a_profile_saves_the_cold_start() -> None:
    known = StepTimes()
    for batch in (48, 64, 80):
        for width in WIDTHS.tolist():
            rows = batch * (1 + width)
            known.observe([StepObservation(batch=batch, rows=rows, context=10**4, seconds=dense(batch, rows, 10**4))])
    paths = chains(np.random.default_rng(0), 64, 0.85)
    widths = []
    for times in (known, StepTimes()):
        controller = Controller(times, widths=WIDTHS.tolist())
        assert controller.nodes(64) == NODES
        widths.append(controller.decide(paths.ravel(), np.arange(65) * NODES, context=10**4).width)
    assert widths == [8, 0]


def test_floor_and_priorities_reach_the_allocation() -> None:
    times = StepTimes()
    times.observe([StepObservation(batch=2, rows=rows, context=0, seconds=0.01) for rows in (2, 4, 6)])
    controller = Controller(times, widths=[0, 2], min_probability=0.5)
    controller.nodes(2)
    allocation = controller.decide([0.9, 0.4, 0.6, 0.5], [0, 2, 4], context=0)
    assert allocation.keep.tolist() == [True, False, True, True]
    ragged = Controller(StepTimes(), widths=[0, 1], ragged=True)
    ragged.nodes(2)
    # A row costs as much as any other before the first observation: only a node worth more than the average pays.
    assert ragged.decide([0.9, 0.9], [0, 1, 2], context=0).counts.sum() == 0
    assert ragged.decide([0.9, 0.9], [0, 1, 2], context=0, priorities=[1.0, 9.0]).counts.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"widths": [0]}, "widths"),
        ({"widths": [4, 8]}, "widths"),
        ({"min_probability": -0.1}, "min_probability"),
        ({"margin": 1.0}, "margin"),
    ],
)
def test_bad_options(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: got"):
        Controller(StepTimes(), **options)


def test_bad_calls() -> None:
    controller = Controller(StepTimes())
    with pytest.raises(ValueError, match=r"^batch: got 0"):
        controller.nodes(0)
    controller.nodes(1)
    with pytest.raises(ValueError, match=r"^probabilities: got"):
        controller.decide([2.0], [0, 1], context=0)
    with pytest.raises(ValueError, match=r"^batch, rows, context: got"):
        controller.decide([0.5], [0, 1], context=-1)
