"""The network between controller and engine goes: connections fall silent, break, or are not to be had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bench.controller.stub import Stub
from sglang_seer.rollout.controller import RolloutController
from sglang_seer.rollout.samples import Prompt, Sample
from tests.rollout.fleet_of_stubs import Arrivals, as_long_as, assert_settled, assert_undisturbed, config, stubs, until

SLOW = 0.002


class Cable:
    """Passes bytes on between a port of its own and an engine's, until it is cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self._open = {"requests": asyncio.Event(), "answers": asyncio.Event()}
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def plug(self) -> None:
        for one in self._open.values():
            one.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    def silence(self, *directions: str) -> None:
        """What is sent from now on arrives when the cable is plugged in again, if anybody waits for it still."""
        for one in directions:
            self._open[one].clear()

    async def drop(self) -> None:
        """Connections break, and new ones are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        self._writers.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            engine_reader, engine_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, engine_writer}
        for one in (self._pass(reader, engine_writer, "requests"), self._pass(engine_reader, writer, "answers")):
            task = asyncio.create_task(one)
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        try:
            while data := await reader.read(65_536):
                await self._open[direction].wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)


@asynccontextmanager
async def cabled(**options: Any) -> AsyncIterator[tuple[RolloutController, list[Stub], Cable]]:
    """Two engines, the first of them behind a cable."""
    async with stubs(2, seconds_per_token=SLOW) as engines:
        cable = Cable(engines[0].port)
        await cable.plug()
        try:
            async with RolloutController([cable.url, engines[1].url], config=config(**options)) as controller:
                yield controller, engines, cable
        finally:
            await cable.plug()
            await cable.drop()


async def roll_out(cut: str, *, heal: bool, **options: Any) -> tuple[list[Sample], RolloutController]:
    """The cable is cut in mid-chunk; with `heal`, it is plugged in again once the engine is out, until it is in use.

    Every sample came as from an engine that was never disturbed.
    """
    taken: list[Prompt] = []
    async with cabled(buffer_requests=40, health_s=1.0, **options) as (controller, engines, cable):

        async def disturb() -> None:
            # Some of it has come through.
            arrivals = Arrivals(controller)
            await until(lambda: arrivals.on(cable.url) > 0)
            if cut == "drop":
                await cable.drop()
            else:
                cable.silence(*cut.split("+"))
            await until(lambda: cable.url not in controller.buffer.up)
            if heal:
                await cable.plug()
                await until(lambda: cable.url in controller.buffer.up)
                # After those that were on their way for long.
                chunks = engines[0].seen.chunks
                await until(lambda: engines[0].seen.chunks > chunks)

        task = asyncio.create_task(disturb())
        try:
            more = as_long_as(lambda: not task.done(), taken)
            samples = [sample async for sample in controller.samples(more)]
            await task
        finally:
            task.cancel()
        assert_settled(controller)
        assert controller.counts.engines_lost == 1
        assert_undisturbed(samples, taken)
        return samples, controller


@pytest.mark.parametrize("cut", ["drop", "requests+answers", "answers"])
async def test_a_cut_network(cut: str) -> None:
    """What the engine had sent is kept, everything goes on elsewhere, nothing is lost or doubled."""
    samples, controller = await roll_out(cut, heal=False)
    kept = [c for s in samples for c in s.chunks if c.end.startswith(("connection", "silent"))]
    assert sum(chunk.tokens for chunk in kept) > 0
    assert sum(controller.counts.broken.values()) >= len(kept) > 0


@pytest.mark.parametrize("cut", ["drop", "requests+answers"])
async def test_a_network_that_comes_back(cut: str) -> None:
    """Answers that were on their way for long are nobody's any more; the engine is used again."""
    samples, _ = await roll_out(cut, heal=True)
    assert samples


async def test_a_silent_network_is_only_found_by_asking() -> None:
    """Negative control: connections that say nothing look like engines that compute."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(roll_out("requests+answers", heal=False, silent_s=60.0), 2.0)
