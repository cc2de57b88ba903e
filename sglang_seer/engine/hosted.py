"""For launchers that build SGLang's ServerArgs and its HTTP server by themselves, in a process of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sglang.srt.entrypoints import http_server
from sglang.srt.plugins import load_plugins


def prepare() -> None:
    """Before the ServerArgs: SGLang loads its plugins only later by itself."""
    load_plugins()


def repair_server_info(states: list[dict[str, Any]]) -> None:
    """After the start. A launcher may have handed SGLang another record for what its scheduler said; /server_info
    then fails. states: of the engine's schedulers, as /server_info has them."""
    state = http_server.get_global_state()
    state.scheduler_info = repaired(state.scheduler_info, states)


def repaired(scheduler_info: Any, states: list[dict[str, Any]]) -> Mapping[str, Any]:
    """What /server_info adds to the server's arguments."""
    if isinstance(scheduler_info, Mapping):
        return scheduler_info
    return {"max_total_num_tokens": int(states[0]["memory_usage"]["token_capacity"])}
