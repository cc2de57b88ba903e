"""The garbage collector's setting while controllers are open."""

import gc
from collections.abc import Iterator

import pytest

from sglang_seer.rollout.client import RolloutError
from sglang_seer.rollout.collector import fewer_collections
from sglang_seer.rollout.controller import RolloutController
from tests.rollout.fleet_of_stubs import config, stubs

BEFORE = (700, 10, 10)


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    was = gc.get_threshold()
    gc.set_threshold(*BEFORE)
    yield
    gc.set_threshold(*was)


async def test_fewer_while_a_controller_is_open() -> None:
    async with stubs(1) as (engine,):
        async with RolloutController([engine.url], config=config(gc_objects=5_000)):
            assert gc.get_threshold() == (5_000, *BEFORE[1:])
        assert gc.get_threshold() == BEFORE
        async with RolloutController([engine.url], config=config(gc_objects=0)):
            assert gc.get_threshold() == BEFORE


async def test_a_controller_that_does_not_open_leaves_it(free_port: int) -> None:
    with pytest.raises(RolloutError):
        async with RolloutController([f"http://127.0.0.1:{free_port}"], config=config()):
            pass
    assert gc.get_threshold() == BEFORE


def test_the_last_to_leave_restores_it() -> None:
    first, second = fewer_collections(5_000), fewer_collections(9_000)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() == (9_000, *BEFORE[1:])
    second.__exit__(None, None, None)
    assert gc.get_threshold() == BEFORE


@pytest.mark.parametrize("before", [(30_000, 10, 10), (0, 10, 10)])
def test_who_collects_less_or_never_is_left_alone(before: tuple[int, int, int]) -> None:
    gc.set_threshold(*before)
    with fewer_collections(5_000):
        assert gc.get_threshold() == before
