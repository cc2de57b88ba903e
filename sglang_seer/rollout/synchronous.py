"""A synchronous rollout without a controller: everything is sent at once, and the last sample ends it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import islice

import msgspec

from sglang_seer.rollout.client import EngineClient, EngineError
from sglang_seer.rollout.records import GenerateRequest, Generation, Load

POLL_S = 0.25


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """Finished samples in the order of their requests, or that of their ends where some were enough, and the engines'
    load together in the order of time."""

    generations: list[Generation]
    loads: list[Load]


def by_group(requests: Sequence[GenerateRequest], engines: int) -> list[int]:
    """Engine of each request: groups in turn, siblings together. It is how veRL balances rollouts."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(request.group, len(numbers)) % engines for request in requests]


async def roll_out(
    clients: Sequence[EngineClient],
    requests: Sequence[GenerateRequest],
    *,
    on_finish: Callable[[Generation], None],
    on_load: Callable[[Load], None],
    poll_s: float = POLL_S,
    enough: int | None = None,
) -> Rollout:
    """Sends all requests, groups to the engines in turn, and returns when the last sample is there.

    enough: return when so many are there, and abort the others (a partial rollout; those that end first are the short
    ones). Raises EngineError as soon as one request fails; the others are cancelled.
    """

    async def one(client: EngineClient, request: GenerateRequest) -> Generation:
        generation = await client.generate(request)
        on_finish(generation)
        return generation

    async with watched(clients, on_load, poll_s=poll_s) as loads:
        places = by_group(requests, len(clients))
        tasks = [asyncio.create_task(one(clients[i], request)) for i, request in zip(places, requests, strict=True)]
        try:
            if enough is None:
                generations = list(await asyncio.gather(*tasks))
            else:
                generations = [await ended for ended in islice(asyncio.as_completed(tasks), enough)]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return Rollout(generations=generations, loads=loads)


@asynccontextmanager
async def watched(
    clients: Sequence[EngineClient], on_load: Callable[[Load], None], *, poll_s: float = POLL_S
) -> AsyncIterator[list[Load]]:
    """Polls the engines' load every `poll_s` seconds; the list grows by their sum."""
    loads: list[Load] = []

    async def watch() -> None:
        while True:
            try:
                load = _sum(await asyncio.gather(*(client.load() for client in clients)))
            except EngineError:
                # An engine that is too busy to answer leaves a gap in the picture. One that is dead fails its requests.
                load = None
            if load is not None:
                loads.append(load)
                on_load(load)
            await asyncio.sleep(poll_s)

    watcher = asyncio.create_task(watch())
    try:
        yield loads
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


def _sum(loads: Sequence[Load]) -> Load:
    return Load(
        at_s=max(load.at_s for load in loads),
        running=sum(load.running for load in loads),
        waiting=sum(load.waiting for load in loads),
        used_tokens=sum(load.used_tokens for load in loads),
        capacity_tokens=sum(load.capacity_tokens for load in loads),
    )
