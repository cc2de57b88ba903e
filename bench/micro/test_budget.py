"""What the speculation budget adds to a decode step: `pytest bench/micro --benchmark-json FILE` (pytest-benchmark)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from sglang_seer.draft.budget import Candidates, allocate
from sglang_seer.draft.controller import Controller
from sglang_seer.draft.step_time import StepObservation, StepTimes

NODES = 16
WIDTHS = (0, 4, 8, 16)
CONTEXT = 1_000_000


def observations(batch: int, count: int) -> list[StepObservation]:
    """Steps around a batch size, flat up to 500 rows, then linear."""
    steps = []
    for i in range(count):
        requests = max(1, batch - i % 64)
        rows = requests * (1 + WIDTHS[i % len(WIDTHS)])
        seconds = 2e-3 + max(6e-3, 1.2e-5 * rows) + 4e-9 * CONTEXT
        steps.append(StepObservation(batch=requests, rows=rows, context=CONTEXT, seconds=seconds))
    return steps


@pytest.fixture(params=[32, 256])
def batch(request: pytest.FixtureRequest) -> int:
    size: int = request.param
    return size


@pytest.fixture
def times(batch: int) -> StepTimes:
    times = StepTimes()
    times.observe(observations(batch, 2000))
    return times


@pytest.fixture
def nodes(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and starts of one chain of 16 nodes a request."""
    random = np.random.default_rng(0)
    paths = np.cumprod(random.beta(4, 2, (batch, NODES)), axis=1).astype(np.float32)
    return paths.ravel(), np.arange(batch + 1, dtype=np.int64) * NODES


@pytest.mark.benchmark(group="one allocation")
@pytest.mark.parametrize("ragged", [False, True], ids=["padded", "ragged"])
def test_allocate(
    benchmark: Any, times: StepTimes, nodes: tuple[np.ndarray, np.ndarray], batch: int, ragged: bool
) -> None:
    seconds = partial(times.seconds, batch, context=CONTEXT)
    priorities = np.where(np.arange(batch) % 16 == 0, 2.0, 1.0)

    def decide() -> None:
        candidates = Candidates(*nodes, priorities=priorities)
        allocate(candidates, seconds, WIDTHS, ragged=ragged)

    benchmark(decide)


@pytest.mark.benchmark(group="spend a total")
@pytest.mark.parametrize("diminishing", [False, True], ids=["worth", "diminishing"])
def test_spend(benchmark: Any, nodes: tuple[np.ndarray, np.ndarray], batch: int, diminishing: bool) -> None:
    def spend() -> None:
        Candidates(*nodes).spend(batch * 4, NODES, diminishing=diminishing)

    benchmark(spend)


@pytest.mark.benchmark(group="one step of the controller")
def test_controller(benchmark: Any, times: StepTimes, nodes: tuple[np.ndarray, np.ndarray], batch: int) -> None:
    controller = Controller(times, widths=WIDTHS)

    def step() -> None:
        if controller.nodes(batch):
            controller.decide(*nodes, context=CONTEXT)

    benchmark(step)


@pytest.mark.benchmark(group="learn 32 steps and fit")
def test_learn(benchmark: Any, times: StepTimes, batch: int) -> None:
    steps = observations(batch, 32)

    def learn() -> None:
        times.observe(steps)
        times.seconds(batch, np.array([batch]), context=CONTEXT)

    benchmark(learn)
