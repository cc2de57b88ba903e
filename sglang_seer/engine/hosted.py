"""For launchers that build SGLang's ServerArgs and its HTTP server by themselves, in a process of theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sglang.srt.entrypoints import http_server
from sglang.srt.plugins import load_plugins


def prepare() -> None:
    """Before the ServerArgs: SGLang loads its plugins only later by itself."""
    load_plugins()


def mend_scheduler_info(mend: Callable[[Any], Mapping[str, Any]]) -> None:
    """After the start: what a launcher handed SGLang as the scheduler's word, made what /server_info can tell."""
    state = http_server.get_global_state()
    state.scheduler_info = mend(state.scheduler_info)
