"""Following a router: engines that join its list are taken in while the rollout runs, those that leave it go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from sglang_seer.rollout.client import EngineError, RolloutError
from sglang_seer.rollout.controller import RolloutController
from sglang_seer.rollout.discovery import engines_of_router
from sglang_seer.rollout.timing import end

log = logging.getLogger(__name__)


@asynccontextmanager
async def following(router: str, rollout: RolloutController) -> AsyncIterator[None]:
    """Within it the rollout has the router's workers, besides the engines that never were in its list.

    A router that does not answer, or lists nobody, changes nothing. A worker that has died and is listed still stays
    out until it is healthy; one that does not answer or does not fit in is asked again with the next look.
    """
    task = asyncio.create_task(_follow(router, rollout), name=f"follow {router}")
    try:
        yield
    finally:
        await end([task])


async def _follow(router: str, rollout: RolloutController) -> None:
    theirs: set[str] = set()
    told: list[str] = []
    while True:
        failed = []
        try:
            workers = dict.fromkeys(await engines_of_router(router))
        except RolloutError as error:
            failed.append(str(error))
        else:
            failed += await _join([url for url in workers if url not in rollout.links], rollout)
            theirs.update(workers)
            for url in sorted(theirs.difference(workers)):
                theirs.discard(url)
                if url in rollout.links:
                    log.warning("engine %s has left the router", url)
                    await rollout.remove_engine(url)
        # Not again with every look.
        if failed != told:
            for text in failed:
                log.warning("%s", text)
        told = failed
        await asyncio.sleep(rollout.config.router_s)


async def _join(urls: Iterable[str], rollout: RolloutController) -> list[str]:
    """What was said by those that could not be taken in."""
    failed = []
    for url in urls:
        try:
            await rollout.add_engine(url)
        except (EngineError, ValueError) as error:
            failed.append(f"{url} of the router is left out: {error}")
        else:
            log.warning("engine %s has joined the router", url)
    return failed
