"""slime's side of the tests: the stand-in, or the checkout that SLIME_CHECKOUT names; a router; arguments; samples."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import types
from argparse import Namespace
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from sglang_seer.integrations.slime import compat
from tests.rollout.real_engines import folder_of_example

CHECKOUT = os.environ.get("SLIME_CHECKOUT")
REWARD_PATH = "tests.integrations.slime_functions.reward"
OURS = "sglang_seer.integrations.slime.generate"


def install() -> None:
    """Makes `import slime` find it. slime's data module imports ray, which no rollout here needs."""
    path = CHECKOUT or str(Path(__file__).parent / "slime_stand_in")
    if path not in sys.path:
        sys.path.insert(0, path)
    try:
        import ray  # noqa: F401
    except ImportError:
        sys.modules["ray"] = types.ModuleType("ray")


install()
rollout = compat.slime("rollout.sglang_rollout")
Sample = compat.slime("utils.types").Sample
run = compat.slime("utils.async_utils").run


def meanwhile(work: Coroutine[Any, Any, None]) -> Future[None]:
    """Does that in slime's loop, beside what runs there."""

    async def running() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    return asyncio.run_coroutine_threadsafe(work, run(running()))


class Router:
    """A stand-in for SGLang's router: it names its workers and hands /generate to them in turn."""

    def __init__(self, workers: Sequence[str]) -> None:
        self.workers = list(workers)
        self._next = itertools.cycle(self.workers)

    async def list_workers(self, request: web.Request) -> web.Response:
        # Dead ones are left out, as there: slime asks each for a minute when it aborts.
        alive = await asyncio.gather(*map(_listens, self.workers))
        return web.json_response(
            {"workers": [{"url": u} for u, there in zip(self.workers, alive, strict=True) if there]}
        )

    async def generate(self, request: web.Request) -> web.Response:
        timeout, headers = aiohttp.ClientTimeout(total=None), {"content-type": "application/json"}
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(next(self._next) + "/generate", data=await request.read(), headers=headers) as answer,
        ):
            return web.Response(status=answer.status, body=await answer.read(), content_type="application/json")


async def _listens(url: str) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
    except OSError:
        return False
    writer.close()
    return True


@contextmanager
def routing(workers: Sequence[str]) -> Iterator[int]:
    """The router on a loopback port of its own, in slime's loop; gives the port."""
    app = web.Application(client_max_size=2**30)
    router = Router(workers)
    app.router.add_get("/workers", router.list_workers)
    app.router.add_post("/generate", router.generate)
    runner = web.AppRunner(app)

    async def start() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    port = run(start())
    try:
        yield port
    finally:
        run(_end_leftovers())
        run(runner.cleanup())


async def _end_leftovers() -> None:
    """Where a sample fails, slime leaves the others running: they would make its one state anew, with old arguments."""
    left = [task for task in asyncio.all_tasks() if task.get_coro().__name__.startswith("generate_and_rm")]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def arguments(port: int | None, **options: Any) -> Namespace:
    """As slime's parser would give them, after its router has started; a new state besides."""
    defaults = {
        "hf_checkpoint": str(folder_of_example() / "model"),
        "sglang_router_ip": "127.0.0.1",
        "sglang_router_port": port,
        "sglang_server_concurrency": 64,
        "sglang_dp_size": 1,
        "sglang_enable_deterministic_inference": True,
        "rollout_num_engines": 2,
        "rollout_global_dataset": True,
        "rollout_seed": 42,
        "rollout_temperature": 1.0,
        "rollout_top_p": 1.0,
        "rollout_top_k": -1,
        "rollout_max_response_len": 120,
        "rollout_stop": None,
        "rollout_stop_token_ids": None,
        "rollout_skip_special_tokens": False,
        "rollout_batch_size": 3,
        "over_sampling_batch_size": 3,
        "n_samples_per_prompt": 3,
        "partial_rollout": False,
        "mask_offpolicy_in_partial_rollout": False,
        "use_rollout_routing_replay": False,
        "use_distributed_post": False,
        "custom_generate_function_path": None,
        "custom_rm_path": REWARD_PATH,
        "group_rm": False,
        "ci_test": False,
        "dynamic_sampling_filter_path": None,
        "rollout_sample_filter_path": None,
        "rollout_all_samples_process_path": None,
        "rollout_sample_hook_path": None,
        "seer_rollout": {"chunk_tokens": 24, "stream_tokens": 8, "poll_s": 0.2},
    }
    assert not set(options) - set(defaults) - {"seer_allow_dropped_groups", "num_layers", "moe_router_topk"}
    args = Namespace(**{**defaults, **options})
    type(rollout.GenerateState)._instances.clear()
    run(_ready(args))
    return args


async def _ready(args: Namespace) -> None:
    compat.slime("utils.http_utils").init_http_client(args)


class Prompts:
    """A data source: groups in order, whatever was given back first. The last prompt is the first one again."""

    def __init__(self, args: Namespace, prompts: Sequence[str]) -> None:
        self._prompts = [*prompts, prompts[0]]
        self._samples = args.n_samples_per_prompt
        self._next = 0
        self.given_back: list[list[Any]] = []

    def get_samples(self, number: int) -> list[list[Any]]:
        groups, self.given_back = self.given_back[:number], self.given_back[number:]
        while len(groups) < number:
            groups.append(self._group())
        return groups

    def _group(self) -> list[Any]:
        group, prompt = self._next, self._prompts[self._next % len(self._prompts)]
        self._next += 1
        first = group * self._samples
        return [Sample(group_index=group, index=first + number, prompt=prompt) for number in range(self._samples)]

    def add_samples(self, groups: list[list[Any]]) -> None:
        self.given_back += groups


def by_index(groups: Sequence[Sequence[Any]]) -> dict[int, Any]:
    return {sample.index: sample for group in groups for sample in group}


def generated(args: Namespace, function: Any, samples: Sequence[Any], **sampling: Any) -> list[Any]:
    """The samples, each through one call of slime's generate or ours, with seeds of their own."""
    parameters = {**rollout.GenerateState(args).sampling_params, **sampling}

    async def all_of_them() -> list[Any]:
        calls = [function(args, one, {**parameters, "sampling_seed": 100 + one.index}) for one in samples]
        return list(await asyncio.gather(*calls))

    return list(run(all_of_them()))


def assert_equal(ours: Any, wanted: Any) -> None:
    """In all that slime trains on or logs."""
    assert ours.index == wanted.index
    assert ours.tokens == wanted.tokens
    assert ours.response == wanted.response
    assert ours.status == wanted.status
    for name in ("response_length", "loss_mask", "weight_versions", "reward"):
        assert getattr(ours, name) == getattr(wanted, name), name
    assert len(ours.rollout_log_probs) == ours.response_length
    pairs = zip(ours.rollout_log_probs, wanted.rollout_log_probs, strict=True)
    assert max(abs(a - b) for a, b in pairs) < 1e-5
    prompts = [one.prefix_cache_info.total_prompt_tokens for one in (ours, wanted)]
    assert prompts[0] == prompts[1]
