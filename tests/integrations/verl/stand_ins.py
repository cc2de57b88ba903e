"""What Seer's client uses of veRL 0.9.1 and Ray, as stand-ins: for faults that a real job cannot be made to have.

`test_job.py` runs the real ones. Modules are named as the real ones, and only what the client touches is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any


class RayError(Exception):
    """As ray.exceptions.RayError."""


class ActorDiedError(RayError):
    """As ray.exceptions.ActorDiedError."""


class TokenOutput(SimpleNamespace):
    """As verl.workers.rollout.replica.TokenOutput: its fields, with its defaults."""

    def __init__(self, **fields: Any) -> None:
        defaults = {"log_probs": None, "routed_experts": None, "stop_reason": None, "num_preempted": None}
        super().__init__(**{**defaults, "extra_fields": {}, **fields})


class LLMServerClient:
    """As verl.workers.rollout.llm_server.LLMServerClient: takes a server, asks it, gives it back."""

    def __init__(self, config: Any, load_balancer_handle: Any = None, **_: Any) -> None:
        self.config, self._load_balancer = config, load_balancer_handle

    async def _acquire_server(self, request_id: str, **extra: Any) -> tuple[str, Any]:
        fields = await self._load_balancer.require_acquire_fields.remote()
        chosen = {name: extra[name] for name in fields if name in extra}
        server: tuple[str, Any] = await self._load_balancer.acquire_server.remote(request_id=request_id, **chosen)
        return server

    def _release_server(self, server_id: str, request_id: str | None = None) -> None:
        self._load_balancer.release_server.remote(server_id=server_id)

    async def generate(self, request_id: str, *, prompt_ids: Any, sampling_params: Any, **_: Any) -> TokenOutput:
        server_id, server = await self._acquire_server(request_id, prompt_ids=prompt_ids)
        try:
            output: TokenOutput = await server.generate.remote(prompt_ids=prompt_ids, sampling_params=sampling_params)
            return output
        finally:
            self._release_server(server_id, request_id=request_id)


class Handle:
    """As a Ray actor's handle: `handle.name.remote(...)` calls a method of the object."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        def remote(**options: Any) -> asyncio.Future[Any]:
            done = method(**options)
            loop = asyncio.get_running_loop()
            if asyncio.iscoroutine(done):
                return loop.create_task(done)
            future = loop.create_future()
            future.set_result(done)
            return future

        return SimpleNamespace(remote=remote)


def modules() -> dict[str, ModuleType]:
    """By name, for sys.modules."""
    found = {
        "ray": {},
        "ray.exceptions": {"RayError": RayError, "ActorDiedError": ActorDiedError},
        "verl": {},
        "verl.utils": {"normalize_token_ids": list},
        "verl.utils.rollout_trace": {"rollout_trace_op": _same},
        "verl.workers": {},
        "verl.workers.rollout": {},
        "verl.workers.rollout.llm_server": {"LLMServerClient": LLMServerClient},
        "verl.workers.rollout.replica": {"TokenOutput": TokenOutput},
    }
    made = {}
    for name, names in found.items():
        made[name] = ModuleType(name)
        made[name].__dict__.update(names)
    return made


def _same(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
