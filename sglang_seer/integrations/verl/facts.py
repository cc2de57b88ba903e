"""What the router wants to know of an engine, over HTTP: veRL names its servers by their addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_seer.rollout.client import EngineClient, EngineError
from sglang_seer.rollout.fleet import DEFAULT_SLOTS
from sglang_seer.rollout.link import facts_of

# An engine without Seer, or one that does not say.
OFF = "off"


@dataclass(frozen=True, slots=True)
class Facts:
    """seer: how Seer runs there, such as `on: scheduling, speculation`."""

    capacity_tokens: int
    slots: int
    seer: str


def seer_of(info: Mapping[str, Any]) -> str:
    """From /server_info."""
    states = info.get("internal_states") or [{}]
    status = states[0].get("sglang_seer")
    if not status or status["mode"] == OFF:
        return OFF
    return f"{status['mode']}: {', '.join(status['parts']) or 'nothing active'}"


def mended(scheduler_info: Any, states: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What /server_info adds to the server's arguments: veRL 0.9.1 takes another of the results of SGLang 0.5.12's
    start for it, with which the call fails. states: of the schedulers."""
    if isinstance(scheduler_info, Mapping):
        return scheduler_info
    return {"max_total_num_tokens": int(states[0]["memory_usage"]["token_capacity"])}


async def ask(address: str) -> Facts:
    """Raises EngineError where the engine does not answer, ValueError where what it says is of no use."""
    async with EngineClient(f"http://{address}") as client:
        try:
            info = await client.server_info()
        except EngineError:
            # veRL 0.9.1 hands SGLang 0.5.12 a wrong record, so that this call fails there with status 500.
            load = await client.load()
            return Facts(load.capacity_tokens, DEFAULT_SLOTS, OFF)
    known = facts_of(info)
    return Facts(known.capacity_tokens, known.slots or DEFAULT_SLOTS, seer_of(info))
