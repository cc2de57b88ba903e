"""A router's list changes while a rollout runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from sglang_seer.rollout.controller import RolloutController
from sglang_seer.rollout.router import following
from sglang_seer.rollout.samples import Prompt
from tests.rollout.fleet_of_stubs import as_long_as, assert_settled, assert_undisturbed, config, stubs, until


class Router:
    """Lists workers; with None it answers an error."""

    def __init__(self, workers: list[str] | None) -> None:
        self.workers = workers
        self.asked = 0

    async def list(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.workers is None:
            return web.Response(status=500)
        return web.json_response({"workers": [{"url": url} for url in self.workers]})


@asynccontextmanager
async def serving(router: Router) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/workers", router.list)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_workers_join_and_leave_and_a_dead_one_is_picked_again(free_port: int) -> None:
    taken: list[Prompt] = []
    dead = f"http://127.0.0.1:{free_port}"
    async with stubs(3, seconds_per_token=0.002) as engines:
        urls = [engine.url for engine in engines]
        router = Router(urls[:1])
        async with (
            serving(router) as url,
            RolloutController(urls[:1], config=config(router_s=0.05, buffer_requests=40)) as controller,
            following(url, controller),
        ):

            async def looked() -> None:
                """Twice: the first answer may have been under way."""
                asked = router.asked
                await until(lambda: router.asked > asked + 2)

            async def change() -> None:
                await until(lambda: bool(engines[0].running))
                # The dead one is before the living one in the list.
                router.workers = [urls[0], dead, urls[1]]
                await until(lambda: engines[1].seen.chunks > 0)
                assert dead not in controller.links
                # Another one dies in mid-chunk; the router lists it still, and once more after it was let go.
                await engines[0].kill()
                await until(lambda: urls[0] not in controller.buffer.up)
                await looked()
                assert urls[0] in controller.links
                router.workers = [urls[1]]
                await until(lambda: urls[0] not in controller.links)
                router.workers = urls[:2]
                await looked()
                assert urls[0] not in controller.links
                # A router that says nothing takes nobody away.
                router.workers = None
                await looked()
                router.workers = []
                await looked()
                assert list(controller.links) == [urls[1]]
                # Alive again, it is taken in.
                chunks = engines[0].seen.chunks
                await engines[0].start()
                router.workers = urls[:2]
                await until(lambda: engines[0].seen.chunks > chunks)

            task = asyncio.create_task(change())
            more = as_long_as(lambda: not task.done(), taken)
            samples = [sample async for sample in controller.samples(more)]
            await task
            assert_settled(controller)
    assert_undisturbed(samples, taken)
    assert engines[2].seen.chunks == 0


async def test_engines_of_ones_own_stay() -> None:
    """Those that a router never listed are none of its business."""
    async with stubs(2, seconds_per_token=0.002) as engines:
        router = Router([engines[1].url])
        async with (
            serving(router) as url,
            RolloutController([engines[0].url], config=config(router_s=0.02)) as controller,
            following(url, controller),
        ):
            await until(lambda: engines[1].url in controller.links)
            router.workers = ["http://127.0.0.1:1"]
            await until(lambda: engines[1].url not in controller.links)
            assert list(controller.links) == [engines[0].url]
