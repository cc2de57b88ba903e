"""Rollouts on CPU engines that run at the same time, the prompts split between them by group."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from sglang_seer.demo.plan import shared_environment, shared_flags
from sglang_seer.demo.servers import Server, ServerPlan, pick_port, serve
from sglang_seer.demo.side import warm_up
from sglang_seer.rollout.client import EngineClient
from sglang_seer.rollout.records import GenerateRequest
from sglang_seer.rollout.synchronous import Rollout, roll_out

# What a side has on top of the shared flags and environment. No drafts: the simulation is of scheduling.
SIDES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "stock": ((), {"SGLANG_SEER": "off"}),
    "seer": (("--scheduler-policy", "seer"), {"SGLANG_SEER_CONFIG": '{"speculation": false}'}),
}
START_TIMEOUT_S = 300.0
ROLLOUT_TIMEOUT_S = 900.0


def run(
    side: str,
    rollouts: Sequence[Sequence[GenerateRequest]],
    *,
    engines: int,
    model: Path,
    kv_tokens: int,
    max_running: int,
    folder: Path,
) -> list[list[Rollout]]:
    """Start engines, make the rollouts one after the other with flushed caches; [rollout][engine].

    Raises ServerError, EngineError or TimeoutError where an engine fails.
    """
    flags, environment = SIDES[side]
    shared = shared_flags(model, kv_tokens=kv_tokens, max_running=max_running)
    with ExitStack() as stack:
        servers: list[Server] = []
        for number in range(engines):
            plan = ServerPlan(
                label=f"{side}-{engines}-{number}",
                port=pick_port(None),
                flags=(*shared, *flags),
                environment={**shared_environment(), **environment},
            )
            servers.append(stack.enter_context(serve(plan, folder)))
        for server in servers:
            server.wait_until_ready(START_TIMEOUT_S)
        made = []
        for requests in rollouts:
            made.append(asyncio.run(asyncio.wait_for(_together(servers, requests), ROLLOUT_TIMEOUT_S)))
            for server in servers:
                flush(server)
        return made


async def _together(servers: Sequence[Server], requests: Sequence[GenerateRequest]) -> list[Rollout]:
    async with _Clients(servers) as clients:
        await asyncio.gather(*(client.generate(one) for client in clients for one in warm_up(requests)))
        groups = list(dict.fromkeys(request.group for request in requests))
        at = {group: number % len(clients) for number, group in enumerate(groups)}
        return list(
            await asyncio.gather(
                *(
                    roll_out(
                        [client],
                        [request for request in requests if at[request.group] == number],
                        on_finish=lambda _: None,
                        on_load=lambda _: None,
                    )
                    for number, client in enumerate(clients)
                )
            )
        )


class _Clients:
    """One client a server."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._clients = [EngineClient(server.plan.url) for server in servers]

    async def __aenter__(self) -> list[EngineClient]:
        return [await client.__aenter__() for client in self._clients]

    async def __aexit__(self, *error: object) -> None:
        for client in self._clients:
            await client.__aexit__(None, None, None)


def flush(server: Server) -> None:
    """Forget prefixes and lengths: the next rollout begins from nothing."""
    request = urllib.request.Request(f"{server.plan.url}/flush_cache", method="POST", data=b"")
    with urllib.request.urlopen(request, timeout=60):
        pass
