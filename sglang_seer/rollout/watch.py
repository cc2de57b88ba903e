"""Watching one engine: its load, whether it lives, and when it may come back.

Silence alone is no fault: a request may wait for memory, and long generations send rarely. So an engine is out only
when a connection to it is refused, when it has sent nothing on any stream for a while and does not answer /health
either, or when it answered several chunks in a row with what is no answer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from sglang_seer.rollout.client import EngineError
from sglang_seer.rollout.link import EngineLink
from sglang_seer.rollout.timing import until_set

if TYPE_CHECKING:
    from sglang_seer.rollout.fleet import Fleet

log = logging.getLogger(__name__)


async def watch(link: EngineLink, fleet: Fleet) -> None:
    """Runs until it is cancelled."""
    config = fleet.config
    while True:
        try:
            if link.url not in fleet.buffer.up:
                await _bring_back(link, fleet)
            elif link.suspect.is_set():
                await _examine(link, fleet)
            else:
                await _look(link, fleet)
        except Exception as error:
            # Nobody waits for this task: an engine must not go unwatched in silence.
            link.last_error = f"{type(error).__name__}: {error}"
            log.exception("a look at engine %s failed", link.url)
            await asyncio.sleep(config.poll_s)
        await until_set(link.suspect, config.poll_s)


async def _look(link: EngineLink, fleet: Fleet) -> None:
    """Takes its load, and doubts it when it is silent."""
    config, engine = fleet.config, fleet.buffer.engines[link.url]
    before = engine.in_flight
    load = await link.load()
    if load is not None:
        fleet.recorder.load(link.url, load)
        # What it reports is some moments old: of ours it may still count those that have just left.
        ours = max(before, engine.in_flight)
        engine.outside = max(0, load.running + load.waiting - ours)
        engine.outside_tokens = max(0, load.used_tokens - engine.reserved_tokens) if engine.outside else 0
        if not load.waiting:
            fleet.break_stalled(link)
    fleet.note_paces()
    now_s = asyncio.get_running_loop().time()
    silent = now_s - link.last_sign_s > config.silent_s if engine.in_flight else load is None
    if silent and not await link.healthy(config.health_s):
        still = asyncio.get_running_loop().time() - link.last_sign_s > config.silent_s
        if still or not engine.in_flight:
            fleet.expel(link, f"silent, and not healthy: {link.last_error}")


async def _examine(link: EngineLink, fleet: Fleet) -> None:
    """After a chunk that ended badly. Until it is over the engine gets no chunks: it may be another one by now."""
    config = fleet.config
    try:
        if link.strikes >= config.strikes:
            link.rests += 1
            fleet.expel(link, f"{link.strikes} answers in a row were none, the last: {link.last_error}")
            await asyncio.sleep(min(config.backoff_s * 2.0 ** (link.rests - 1), config.most_backoff_s))
            # One more bad answer, and it rests again.
            link.strikes = config.strikes - 1
            return
        link.facts = await link.ask()
        fleet.check_fit(link)
    except (EngineError, ValueError) as error:
        link.last_error = str(error)
        fleet.expel(link, f"after a connection broke: {error}")
    finally:
        fleet.trust(link)


async def _bring_back(link: EngineLink, fleet: Fleet) -> None:
    """Takes it in again once it is healthy and serves what the others do."""
    fleet.trust(link)
    if not await link.healthy(fleet.config.health_s):
        return
    try:
        link.facts = await link.ask()
        fleet.check_fit(link)
    except (EngineError, ValueError) as error:
        if link.last_error != str(error):
            log.error("engine %s stays out: %s", link.url, error)
        link.last_error = str(error)
        return
    link.pace_s = None
    log.warning("engine %s is in again", link.url)
    fleet.admit(link)
