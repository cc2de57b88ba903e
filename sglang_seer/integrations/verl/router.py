"""The router of a veRL job, one Ray actor: decides which sample's chunk starts next, and on which server.

`rollout.router_config_path` names a YAML file:
    router_class: sglang_seer.integrations.verl.SeerRouter
    seer:                     # optional: keys of sglang_seer.rollout.RolloutConfig
      chunk_tokens: 2048
Clients other than Seer's are served as by veRL's own router, and counted as load.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from verl.workers.rollout.router import GlobalRequestLoadBalancer

from sglang_seer.integrations.verl.facts import ask
from sglang_seer.rollout.client import EngineError
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.desk import Ask, Desk, Report, engines_alike

# Each waiting request holds one call; Ray's own limit of 1,000 would keep reports from coming in.
MOST_CALLS = 100_000
KNOWN = ("router_class", "seer")


class Router(GlobalRequestLoadBalancer):  # type: ignore[misc]
    """Raises ValueError for a file with unknown keys."""

    def __init__(self, servers: dict[str, Any], config: dict[str, Any]) -> None:
        super().__init__(servers)
        if unknown := sorted(set(config) - set(KNOWN)):
            raise ValueError(f"router file: unknown key {unknown[0]!r}; known are {', '.join(KNOWN)}")
        self._desk = Desk(RolloutConfig.of(config.get("seer") or {}))
        self._seer: dict[str, str] = {}
        self._lock: asyncio.Lock | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    # Servers

    async def check(self) -> dict[str, Any]:
        """Meets the servers that are new. Raises RuntimeError where one does not answer or they are not alike."""
        if self._lock is None:
            self._lock = asyncio.Lock()
            self._keep(self._desk.run())
        async with self._lock:
            new = [name for name in self._servers if name not in self._seer]
            try:
                found = await asyncio.gather(*(ask(name) for name in new))
            except (EngineError, ValueError) as error:
                raise RuntimeError(f"a server of this job cannot be used: {error}") from error
            seer = {**self._seer, **{name: facts.seer for name, facts in zip(new, found, strict=True)}}
            if reason := engines_alike(seer):
                raise RuntimeError(reason)
            for name, facts in zip(new, found, strict=True):
                if name in self._servers:
                    self._seer[name] = facts.seer
                    self._desk.add_engine(name, capacity_tokens=facts.capacity_tokens, slots=facts.slots)
        config = self._desk.config
        return {"chunk_tokens": config.chunk_tokens, "backoff_s": config.backoff_s, "engines": dict(self._seer)}

    def _keep(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def add_servers(self, servers: dict[str, Any]) -> None:
        """As veRL's; returns once they take chunks."""
        for name in servers:
            # Another engine may have that address by now.
            self._seer.pop(name, None)
        super().add_servers(servers)
        await self.check()

    def remove_servers(self, server_ids: list[str]) -> None:
        """As veRL's; their chunks come back as broken, and go on elsewhere."""
        super().remove_servers(server_ids)
        for name in server_ids:
            self._seer.pop(name, None)
            self._desk.remove_engine(name)

    # Requests

    def require_acquire_fields(self) -> list[str]:
        """What a client of Seer's sends with a request."""
        return ["seer"]

    async def acquire_server(self, request_id: str, seer: Ask | None = None) -> tuple[str, Any]:
        """Waits for a place where it is a chunk. Raises RolloutError where none can be had."""
        if seer is None:
            name, handle = super().acquire_server(request_id)
            self._desk.others(name, self._inflight_requests[name])
            return name, handle
        if self._lock is None or len(self._seer) < len(self._servers):
            await self.check()
        while True:
            place = await self._desk.take(seer)
            if place.engine in self._servers:
                return place.engine, self._servers[place.engine]
            self._desk.give_back(seer.key, Report(end="engine: it was removed", blame=True))

    def release_server(
        self, server_id: str | None, request_id: str | None = None, seer: tuple[str, Report] | None = None
    ) -> None:
        """The request, or the chunk, is over."""
        if seer is not None:
            self._desk.give_back(*seer)
        elif server_id is not None:
            super().release_server(server_id, request_id)
            self._desk.others(server_id, self._inflight_requests.get(server_id, 0))

    def clear_sticky_cache(self) -> dict[str, Any]:
        """Trainers call it between phases: whatever an engine had cached may be gone."""
        self._desk.forget_prefixes()
        cleared: dict[str, Any] = super().clear_sticky_cache()
        return cleared

    def get_total_inflight(self) -> int:
        """Chunks included."""
        return int(super().get_total_inflight()) + self._desk.buffer.running

    def get_status(self) -> dict[str, Any]:
        """veRL's block, and Seer's."""
        buffer = self._desk.buffer
        counts = buffer.counts
        return {
            **super().get_status(),
            "seer": {
                "engines": dict(self._seer),
                "up": sorted(buffer.up),
                "waiting": buffer.waiting,
                "running": buffer.running,
                "chunks": counts.chunks,
                "moved": counts.moved,
                "broken": dict(counts.broken),
                "whole": dict(counts.whole),
                "engines_lost": counts.engines_lost,
                "weight_version": self._desk.weight_version,
                "weight_updates": self._desk.weight_updates,
            },
        }


SeerRouter = ray.remote(max_concurrency=MOST_CALLS)(Router)
