"""Two real engines share KV in a Mooncake store over tcp."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sglang_seer.rollout import RolloutController
from tests.rollout.fleet_of_stubs import until
from tests.rollout.mooncake_store import LEASE_S, MooncakeStore, why_not
from tests.rollout.real_engines import RealEngine, assert_equal, unchunked
from tests.rollout.sharing_engines import (
    PAGE,
    Answers,
    computed_again,
    forget,
    fresh_version,
    moved,
    prompts,
    shared,
    sharing_engines,
    waiting_for_pages,
)


@dataclass(frozen=True)
class Sharing:
    engines: list[RealEngine]
    store: MooncakeStore


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sharing]:
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("mooncake")
    with MooncakeStore(folder) as store, sharing_engines(folder, "mooncake", store.options, {}) as engines:
        yield Sharing(engines, store)


@pytest.fixture
async def whole(engines: dict[str, RealEngine], problems: list[list[int]]) -> Answers:
    return await unchunked(engines["stock"], prompts(problems[:4]))


async def test_chunks_that_move_and_engines_that_forgot_find_their_prefix(
    sharing: Sharing, problems: list[list[int]], whole: Answers
) -> None:
    version = fresh_version()
    with waiting_for_pages(sharing.store.stored):
        samples, rollout = await shared(sharing.engines, prompts(problems[:4]), version=version)
    assert_equal(samples, whole)
    assert rollout.counts.moved > 5
    assert max(map(computed_again, moved(samples))) <= PAGE
    assert rollout.counts.pulled_tokens > 5 * PAGE
    await forget(sharing.engines)
    samples, rollout = await shared(sharing.engines, prompts(problems[:4]), version=version)
    assert_equal(samples, whole)
    assert sum(sample.chunks[0].pulled_tokens for sample in samples) > 0


async def test_other_weights_have_other_keys_and_an_emptied_store_has_none(
    sharing: Sharing, problems: list[list[int]]
) -> None:
    version, wanted = fresh_version(), prompts(problems, samples=1)
    pulled = []
    for namespace in (version, version, fresh_version()):
        samples, _ = await shared(sharing.engines, wanted, version=namespace)
        await forget(sharing.engines)
        pulled.append(sum(sample.chunks[0].pulled_tokens for sample in samples))
    await asyncio.sleep(LEASE_S + 1)
    async with RolloutController([engine.url for engine in sharing.engines]) as rollout:
        await rollout.release_kv()
    samples, _ = await shared(sharing.engines, wanted, version=version)
    pulled.append(sum(sample.chunks[0].pulled_tokens for sample in samples))
    assert pulled[1] > 0
    assert pulled[::2] == [0, 0] and pulled[3] == 0


async def test_a_master_that_dies_costs_a_prefill_and_nothing_else(
    sharing: Sharing, problems: list[list[int]], whole: Answers
) -> None:
    """Last of this file: it stays dead."""

    async def kill(rollout: RolloutController) -> None:
        await until(lambda: rollout.counts.chunks > 20)
        sharing.store.kill_master()

    samples, rollout = await shared(sharing.engines, prompts(problems[:4]), version=fresh_version(), disturb=kill)
    assert_equal(samples, whole)
    samples, rollout = await shared(sharing.engines, prompts(problems[:2]), version=fresh_version())
    assert rollout.counts.moved > 0
    assert rollout.counts.pulled_tokens == 0
    assert rollout.counts.prefilled_again_tokens > 0
