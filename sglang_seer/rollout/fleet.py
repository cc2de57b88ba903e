"""The engines of a rollout: who is there, who is up, who fits in."""

from __future__ import annotations

import asyncio
import logging
import statistics
from collections.abc import Callable, Sequence

from sglang_seer.rollout.buffer import RequestBuffer
from sglang_seer.rollout.client import EngineError, RolloutError
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.link import EngineLink, mismatches
from sglang_seer.rollout.recorder import Recorder
from sglang_seer.rollout.timing import end
from sglang_seer.rollout.watch import watch

log = logging.getLogger(__name__)

DEFAULT_SLOTS = 256
# Breaks off the chunks of the engine of that name, for that reason; gives the tasks that end with it.
Evict = Callable[[str, str], Sequence[asyncio.Task[None]]]


class Fleet:
    """Engines by URL. links: theirs, filled here. wake: set when one may take chunks that could not before."""

    def __init__(
        self,
        config: RolloutConfig,
        buffer: RequestBuffer,
        links: dict[str, EngineLink],
        *,
        recorder: Recorder,
        evict: Evict,
        break_stalled: Callable[[EngineLink], None],
        wake: asyncio.Event,
    ) -> None:
        self.config, self.buffer, self.links, self.recorder = config, buffer, links, recorder
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._evict = evict
        self.break_stalled = break_stalled
        self._wake = wake
        self._paces_due_s = 0.0

    async def open(self, urls: Sequence[str]) -> None:
        """Meets all engines. Raises RolloutError where none answers, ValueError where they do not fit together."""
        reasons = await asyncio.gather(*(self._meet(url) for url in urls))
        known = {url: link.facts for url, link in self.links.items() if link.facts is not None}
        if not known:
            raise RolloutError("no engine answers: " + "; ".join(reason for reason in reasons if reason))
        if found := mismatches(known):
            raise ValueError("engines must serve the same model alike; they differ in " + "; ".join(found))
        for link in self.links.values():
            if link.facts is not None:
                self.admit(link)
            self._watch(link)

    async def close(self) -> None:
        await end(self._watchers.values())
        self._watchers.clear()
        await asyncio.gather(*(link.close() for link in self.links.values()))
        self.links.clear()

    async def _meet(self, url: str) -> str | None:
        link = self.links[url] = EngineLink(url, self.config)
        await link.open()
        try:
            link.facts = await link.ask()
        except EngineError as error:
            log.warning("engine %s does not answer and is left out until it does: %s", url, error)
            return str(error)
        return None

    def _watch(self, link: EngineLink) -> None:
        self._watchers[link.url] = asyncio.create_task(watch(link, self), name=f"watch {link.url}")

    async def add(self, url: str) -> None:
        """Takes in another engine. Raises EngineError, or ValueError where it does not fit in."""
        if url in self.links:
            raise ValueError(f"engine {url} is there already")
        link = EngineLink(url, self.config)
        await link.open()
        try:
            link.facts = await link.ask()
            self.check_fit(link)
        except (EngineError, ValueError):
            await link.close()
            raise
        self.links[url] = link
        self.admit(link)
        self._watch(link)

    async def remove(self, url: str) -> None:
        """Gives it no more chunks, breaks off those that run there, and lets it go."""
        link = self.links.get(url)
        if link is None:
            raise ValueError(f"engine {url} is not there; there are {', '.join(self.links)}")
        self._watchers.pop(url).cancel()
        if url in self.buffer.engines:
            self.buffer.set_up(url, False)
            await asyncio.gather(*self._evict(url, "the engine was removed"), return_exceptions=True)
            self.recorder.engine(url, "removed", "asked for")
            self.buffer.remove_engine(url)
        del self.links[url]
        await link.close()
        self._wake.set()

    def check_fit(self, link: EngineLink) -> None:
        """Raises ValueError where it serves something else than the others."""
        known = {url: other.facts for url, other in self.links.items() if other.facts and url != link.url}
        if link.facts is not None and known and (found := mismatches({**known, link.url: link.facts})):
            raise ValueError(f"engine {link.url} does not serve what the others do: " + "; ".join(found))

    def admit(self, link: EngineLink) -> None:
        """The engine takes chunks from now on."""
        assert link.facts is not None
        if link.url in self.buffer.engines:
            self.buffer.set_up(link.url, True)
        else:
            slots = self.config.max_running or link.facts.slots or DEFAULT_SLOTS
            self.buffer.add_engine(link.url, capacity_tokens=link.facts.capacity_tokens, slots=slots)
        link.signed()
        self.recorder.engine(link.url, "up", "it answers")
        self._wake.set()

    def expel(self, link: EngineLink, why: str) -> None:
        """The engine takes no chunks until it is admitted again; those that run there go elsewhere."""
        if link.url not in self.buffer.up:
            return
        log.warning("engine %s is out: %s", link.url, why)
        self.buffer.set_up(link.url, False)
        self.recorder.engine(link.url, "down", why)
        self._evict(link.url, why)

    def trust(self, link: EngineLink) -> None:
        """The doubts are settled."""
        link.suspect.clear()
        self._wake.set()

    def note_paces(self) -> None:
        """Engines that take longer over a token than the median count as more loaded; once a poll is often enough."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._paces_due_s:
            return
        self._paces_due_s = now_s + self.config.poll_s
        paces = {url: link.pace_s for url, link in self.links.items() if link.pace_s and url in self.buffer.engines}
        if len(paces) < 2:
            return
        median = statistics.median_low(paces.values())
        for url, pace_s in paces.items():
            self.buffer.engines[url].slowdown = max(1.0, pace_s / median)

    def check_length(self, group: str, input_tokens: int, limit: int) -> None:
        """Raises ValueError for a prompt that an engine has no room for."""
        for link in self.links.values():
            if link.facts is None:
                continue
            most, context = link.facts.most_input_tokens, link.facts.context_tokens
            if (most is not None and input_tokens > most) or (context is not None and input_tokens + limit > context):
                raise ValueError(
                    f"prompt {group!r}: {input_tokens} tokens and max_new_tokens {limit}: the engine {link.url} "
                    f"takes {most} tokens of input and {context} in all"
                )
