"""A stub that says so: it answers like SGLang 0.5.23 and computes nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class StubEngine:
    """Answers after `delay_s` times (1 + sample); fails for samples in `failing`, hangs up on those in `dropping`.

    turn: a sample is answered when its turn has come, where the order matters.
    """

    def __init__(
        self,
        *,
        delay_s: float = 0.0,
        failing: tuple[int, ...] = (),
        dropping: tuple[int, ...] = (),
        turn: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self.delay_s, self.failing, self.dropping, self.turn = delay_s, failing, dropping, turn
        self.bodies: list[dict[str, Any]] = []
        # Of each call for the load: its connection's other end.
        self.peers: list[Any] = []
        self.running = 0
        self.cancelled = 0
        self.answer: dict[str, Any] | None = None
        self.broken_loads = False

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        sample = body["sampling_params"]["custom_params"]["seer"]["sample"]
        self.running += 1
        try:
            await asyncio.sleep(self.delay_s * (1 + sample))
            if self.turn is not None:
                await self.turn(sample)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if sample in self.failing:
            return web.Response(status=400, text="the stub was told to fail")
        if sample in self.dropping:
            assert request.transport is not None
            request.transport.close()
        if self.answer is not None:
            return web.json_response(self.answer)
        meta = {
            "finish_reason": {"type": "stop", "matched": 3},
            "prompt_tokens": len(body["input_ids"]),
            "num_retractions": 2,
            "prefill_finished_time": 1.5,
        }
        return web.json_response({"stub": True, "output_ids": [sample, 3], "meta_info": meta})

    async def loads(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        self.peers.append(request.transport.get_extra_info("peername"))
        if self.broken_loads:
            return web.Response(status=500, text="the stub was told to fail")
        rank = {
            "num_running_reqs": self.running,
            "num_waiting_reqs": 1,
            "num_used_tokens": 10,
            "max_total_num_tokens": 40,
        }
        return web.json_response({"stub": True, "loads": [rank, rank]})

    async def server_info(self, request: web.Request) -> web.Response:
        return web.json_response({"stub": True, "version": "stub"})


@asynccontextmanager
async def serving(engine: StubEngine) -> AsyncIterator[str]:
    """The stub on a loopback port of its own; gives its URL."""
    app = web.Application()
    app.router.add_post("/generate", engine.generate)
    app.router.add_get("/v1/loads", engine.loads)
    app.router.add_get("/server_info", engine.server_info)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
