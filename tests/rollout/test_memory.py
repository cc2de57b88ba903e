"""Memory holds what is in flight, not what has been."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator

from sglang_seer.rollout import Prompt, RolloutController, Sample
from tests.rollout.fleet_of_stubs import config, prompts, stubs

FIRST, LAST = 300, 1500
# Of one sample: its tokens and log-probabilities, eight bytes a reference and some more what it refers to.
LEAST_OF_A_SAMPLE = 80 * 2 * 8


async def grown_bytes(*, keep: bool) -> int:
    """What is held more after LAST samples than after FIRST."""
    kept: list[Sample] = []
    seen, first = 0, 0

    def source() -> Iterator[Prompt]:
        yield from prompts(LAST)

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async with (
        stubs(2, constant=True) as engines,
        RolloutController([e.url for e in engines], config=config(buffer_requests=64, stream_tokens=32)) as rollout,
    ):
        tracemalloc.start()
        try:
            async for sample in rollout.samples(source()):
                seen += 1
                if keep:
                    kept.append(sample)
                if seen == FIRST:
                    first = held()
                if seen == LAST:
                    return held() - first
        finally:
            tracemalloc.stop()
    raise AssertionError("the rollout ended early")


async def test_finished_samples_leave_nothing_but_their_groups_lengths() -> None:
    assert await grown_bytes(keep=False) < (LAST - FIRST) * LEAST_OF_A_SAMPLE * 3 / 4


async def test_a_caller_that_keeps_them_is_seen() -> None:
    """Negative control."""
    assert await grown_bytes(keep=True) > (LAST - FIRST) * LEAST_OF_A_SAMPLE
