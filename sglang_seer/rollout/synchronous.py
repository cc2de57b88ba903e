"""A synchronous rollout on one engine: everything is sent at once, and the last sample ends it."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from sglang_seer.rollout.client import EngineClient, EngineError
from sglang_seer.rollout.records import GenerateRequest, Generation, Load

POLL_S = 0.25


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """Finished samples in the order of their requests, and the engine's load in the order of time."""

    generations: list[Generation]
    loads: list[Load]


async def roll_out(
    client: EngineClient,
    requests: Sequence[GenerateRequest],
    *,
    on_finish: Callable[[Generation], None],
    on_load: Callable[[Load], None],
    poll_s: float = POLL_S,
) -> Rollout:
    """Sends all requests, polls the load every `poll_s` seconds, and returns when the last sample is there.

    Raises EngineError as soon as one request fails; the others are cancelled.
    """
    loads: list[Load] = []

    async def one(request: GenerateRequest) -> Generation:
        generation = await client.generate(request)
        on_finish(generation)
        return generation

    async def watch() -> None:
        while True:
            try:
                load = await client.load()
            except EngineError:
                # An engine that is too busy to answer leaves a gap in the picture. One that is dead fails its requests.
                load = None
            if load is not None:
                loads.append(load)
                on_load(load)
            await asyncio.sleep(poll_s)

    watcher = asyncio.create_task(watch())
    tasks = [asyncio.create_task(one(request)) for request in requests]
    try:
        generations = list(await asyncio.gather(*tasks))
    finally:
        for task in (watcher, *tasks):
            task.cancel()
        await asyncio.gather(watcher, *tasks, return_exceptions=True)
    return Rollout(generations=generations, loads=loads)
