"""Step times learnt from synthetic engines whose true times are known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_seer.draft.least_squares import nonnegative_minimum
from sglang_seer.draft.step_time import MOST_REGIONS, PROFILE_VERSION, DraftObservation, StepObservation, StepTimes

WIDTHS = np.array([0, 4, 8, 16])
Truth = Callable[[int, int, int], float]


def dense(batch: int, rows: int, context: int) -> float:
    """Flat up to a knee at 300 rows, then linear; the KV cache is read in each step."""
    return 1e-3 + (rows > batch) * 5e-4 + 8e-6 * batch + max(6e-3, 2e-5 * rows) + 4e-9 * context


def experts(batch: int, rows: int, context: int) -> float:
    """More rows wake up more experts: steep first, then flatter."""
    return 2e-3 + 6e-3 * (1.0 - math.exp(-rows / 40)) + 1.2e-5 * rows + 4e-9 * context


def measure(
    truth: Truth, batches: list[int], *, noise: float = 0.0, outliers: float = 0.0, length: int = 1000
) -> list[StepObservation]:
    """One observation of each width in turn for each batch size; an outlier takes ten times as long."""
    random = np.random.default_rng(0)
    steps = []
    for i, batch in enumerate(batches):
        rows = batch * (1 + int(WIDTHS[i % 4]))
        seconds = truth(batch, rows, batch * length) * (1.0 + noise * random.standard_normal())
        if random.random() < outliers:
            seconds *= 10.0
        steps.append(StepObservation(batch=batch, rows=rows, context=batch * length, seconds=seconds))
    return steps


def errors(times: StepTimes, truth: Truth, batches: list[int], length: int = 1000) -> np.ndarray:
    """[batches, widths] relative errors."""
    found = []
    for batch in batches:
        rows = batch * (1 + WIDTHS)
        true = np.array([truth(batch, int(row), batch * length) for row in rows])
        found.append(times.seconds(batch, rows, context=batch * length) / true - 1.0)
    return np.abs(np.array(found))


def learnt(steps: list[StepObservation], **options: Any) -> StepTimes:
    times = StepTimes(**options)
    times.observe(steps)
    return times


FALLING = [max(1, round(256 * (1 - step / 2000) ** 1.5)) for step in range(2000)]


@pytest.mark.parametrize("truth", [dense, experts])
def test_follows_a_rollout_whose_batch_shrinks(truth: Truth) -> None:
    times = learnt(measure(truth, FALLING, noise=0.03, outliers=0.05))
    assert errors(times, truth, [250, 200, 150, 100, 60, 30, 15, 8]).mean() < 0.03
    assert errors(times, truth, [250, 200, 150, 100, 60, 30, 15, 8]).max() < 0.12


@pytest.mark.parametrize("truth", [dense, experts])
def test_between_measured_batch_sizes(truth: Truth) -> None:
    times = learnt(measure(truth, [16] * 40 + [64] * 40 + [256] * 40))
    assert errors(times, truth, [16, 64, 256]).max() < 0.01
    assert errors(times, truth, [24, 40, 100, 180]).max() < 0.2


def test_outliers_below_half_do_not_count() -> None:
    steps = [64] * 120
    assert errors(learnt(measure(dense, steps, outliers=0.25)), dense, [64]).max() < 0.02
    # Control: above half they do, and without a window each of them does.
    assert errors(learnt(measure(dense, steps, outliers=0.8)), dense, [64]).max() > 0.5
    alone = [*measure(dense, steps), *(step for step in measure(dense, [64] * 4, outliers=1.0))]
    assert errors(learnt(alone, window=1), dense, [64]).max() > 0.5
    assert errors(learnt(alone), dense, [64]).max() < 0.02


def test_one_outlier_in_a_new_region_does_not_bend_the_others() -> None:
    """A first compilation: the only measurement at 40 requests takes 100 times as long."""
    steps = measure(dense, [16] * 40 + [64] * 40 + [256] * 40)
    steps.append(StepObservation(batch=40, rows=40 * 9, context=40_000, seconds=100 * dense(40, 360, 40_000)))
    assert errors(learnt(steps), dense, [16, 64, 256]).max() < 0.03
    assert errors(learnt(steps), dense, [40]).max() < 0.2


def test_outliers_in_many_small_regions_do_not_bend_the_fit() -> None:
    """400 steps leave some regions with one or two measurements, of which one in seven is ten times too long."""
    times = learnt(measure(experts, FALLING[::5], outliers=0.15))
    assert errors(times, experts, [250, 200, 150, 100, 60, 30, 15, 8]).mean() < 0.002


def test_context_of_another_time_is_accounted_for() -> None:
    """All widths are measured at 500 tokens a request, later plain decoding alone at up to 20,000."""
    steps = measure(dense, [64] * 80, length=500)
    for length in range(500, 20_000, 100):
        context = 64 * length
        steps.append(StepObservation(batch=64, rows=64, context=context, seconds=dense(64, 64, context)))
    assert errors(learnt(steps), dense, [64], length=20_000).max() < 0.03
    # Control: what was measured at the time is far from true now.
    assert dense(64, 64 * 9, 64 * 20_000) / dense(64, 64 * 9, 64 * 500) > 1.3


def test_follows_a_machine_that_became_slower() -> None:
    def slow(batch: int, rows: int, context: int) -> float:
        return 2.0 * dense(batch, rows, context)

    times = learnt(measure(dense, [64] * 400))
    assert errors(times, slow, [64]).max() > 0.4
    times.observe(measure(slow, [64] * 40))
    assert errors(times, slow, [64]).max() < 0.02


def test_cautious_above_the_most_rows_measured() -> None:
    steps = [StepObservation(batch=batch, rows=batch, context=0, seconds=0.01) for batch in (8, 16, 32)]
    seconds = learnt(steps).seconds(16, np.array([16, 32, 64, 320]), context=0)
    assert seconds == pytest.approx([0.01, 0.01, 0.02, 0.1], rel=1e-3)


@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.integers(0, 20), st.integers(0, 10**6), st.floats(1e-4, 10.0)),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 300),
    st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_never_falls_with_the_rows(observed: list[tuple], batch: int, context: int) -> None:
    times = learnt([StepObservation(batch=b, rows=b * (1 + w), context=c, seconds=s) for b, w, c, s in observed])
    seconds = times.seconds(batch, np.arange(batch, batch * 18), context=context)
    assert np.all(np.isfinite(seconds))
    assert np.all(seconds > 0.0)
    assert np.all(np.diff(seconds) >= -1e-12 * seconds[:-1])


def test_same_observations_same_times() -> None:
    steps = measure(dense, FALLING[::5], noise=0.1, outliers=0.1)
    at_once, one_by_one = learnt(steps), StepTimes()
    for i, step in enumerate(steps):
        one_by_one.observe([step])
        if i % 7 == 0:  # asking in between changes nothing
            one_by_one.seconds(step.batch, np.array([step.rows]), context=step.context)
    for batch in (1, 20, 200):
        rows = batch * (1 + WIDTHS)
        first, second = (times.seconds(batch, rows, context=batch) for times in (at_once, one_by_one))
        assert first.tobytes() == second.tobytes()


def test_before_the_first_observation_time_is_the_rows() -> None:
    assert StepTimes().seconds(2, np.array([2, 10]), context=5).tolist() == [2.0, 10.0]
    assert StepTimes().draft_seconds(2, 8) == 0.0


def test_time_is_positive_far_from_the_measurements() -> None:
    """Twice the time at twice the context looks like nothing at no context."""
    steps = [StepObservation(batch=1, rows=1, context=1000 * n, seconds=float(n)) for n in (1, 2, 3, 4)]
    assert learnt(steps).seconds(1, np.array([1]), context=0).tolist() == [0.1]


def test_draft_seconds() -> None:
    def truth(batch: int, nodes: int) -> float:
        return 2e-5 + 3e-6 * batch + 2e-7 * batch * nodes

    drafts = [
        DraftObservation(batch=batch, nodes=nodes, seconds=truth(batch, nodes))
        for batch in (1, 16, 256)
        for nodes in (4, 8, 16)
    ]
    times = StepTimes()
    times.observe([], drafts)
    for batch, nodes in ((1, 8), (100, 12), (256, 16)):
        assert times.draft_seconds(batch, nodes) == pytest.approx(truth(batch, nodes), rel=0.01)
    assert times.draft_seconds(100, 0) == 0.0


def test_memory_is_bounded(tmp_path: Path) -> None:
    times = StepTimes(window=2)
    random = np.random.default_rng(0)
    for batch, rows, context in zip(
        random.integers(1, 5000, 5000), random.integers(0, 60_000, 5000), random.integers(0, 10**9, 5000), strict=True
    ):
        step = StepObservation(
            batch=int(batch), rows=int(batch + rows), context=int(context >> random.integers(30)), seconds=1.0
        )
        times.observe([step])
    times.save(tmp_path / "profile.json")
    assert len(json.loads((tmp_path / "profile.json").read_text())["steps"]) == MOST_REGIONS
    assert times.num_observations == 5000


def test_a_profile_carries_the_times_over(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    times = learnt(measure(experts, FALLING))
    times.observe([], [DraftObservation(batch=8, nodes=8, seconds=1e-4)])
    times.save(path)
    loaded = StepTimes.load(path)
    assert errors(loaded, experts, [200, 100, 50, 25]).max() < 0.03
    assert loaded.draft_seconds(8, 8) == pytest.approx(times.draft_seconds(8, 8))
    again = tmp_path / "again.json"
    loaded.save(again)
    assert json.loads(again.read_text()) == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": 7, "steps": [], "drafts": []}', f"version: got 7, wanted {PROFILE_VERSION}"),
        ('{"version": 1, "drafts": []}', "steps"),
        ('{"version": 1, "steps": [], "drafts": [], "more": 1}', "more"),
        ('{"version": 1, "steps": [{"batch": 1, "rows": "4", "context": 0, "seconds": 1}], "drafts": []}', "rows"),
        (
            '{"version": 1, "steps": [{"batch": 4, "rows": 2, "context": 0, "seconds": 1}], "drafts": []}',
            "steps.0.: got",
        ),
        ("not json", "profile.json"),
    ],
)
def test_bad_profile(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        StepTimes.load(path)


def test_missing_profile(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read it: No such file"):
        StepTimes.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    "change",
    [{"batch": 0}, {"rows": 3}, {"context": -1}, {"seconds": 0.0}, {"seconds": math.nan}, {"seconds": math.inf}],
)
def test_an_impossible_step_is_refused_and_nothing_is_learnt(change: dict[str, Any]) -> None:
    good = StepObservation(batch=4, rows=8, context=0, seconds=1.0)
    bad = StepObservation(**{"batch": 4, "rows": 8, "context": 0, "seconds": 1.0, **change})
    times = StepTimes()
    with pytest.raises(ValueError, match=r"^steps\[1\]: got"):
        times.observe([good, bad])
    assert times.num_observations == 0


def test_other_bad_input() -> None:
    times = StepTimes()
    with pytest.raises(ValueError, match=r"^drafts\[0\]: got"):
        times.observe([], [DraftObservation(batch=1, nodes=0, seconds=1.0)])
    with pytest.raises(ValueError, match=r"^batch, rows, context: got 4, 3"):
        times.seconds(4, np.array([3]), context=0)
    with pytest.raises(ValueError, match=r"^batch, nodes: got 0"):
        times.draft_seconds(0, 1)
    with pytest.raises(ValueError, match=r"^window: got 0"):
        StepTimes(window=0)
    with pytest.raises(ValueError, match=r"^half_life: got 0"):
        StepTimes(half_life=0)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(12, 30), st.booleans())
@settings(max_examples=200, deadline=None)
def test_nonnegative_least_squares(seed: int, size: int, samples: int, warm: bool) -> None:
    random = np.random.default_rng(seed)
    columns = random.standard_normal((samples, size))
    target = random.standard_normal(samples)
    start = np.maximum(random.standard_normal(size), 0.0) if warm else np.zeros(size)
    found = nonnegative_minimum(columns.T @ columns, columns.T @ target, start)
    wanted, _ = scipy.optimize.nnls(columns, target)
    assert found == pytest.approx(wanted, abs=1e-7)
