"""veRL's SGLang server with Seer's plugin in it.

veRL builds SGLang's ServerArgs in its server's process before SGLang loads plugins there; so they are loaded first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import ray
from sglang.srt.entrypoints import http_server
from sglang.srt.plugins import load_plugins
from verl.workers.rollout.sglang_rollout.async_sglang_server import SGLangHttpServer, SGLangReplica

from sglang_seer.config import mode_from_environment
from sglang_seer.integrations.verl.facts import OFF, seer_of

logger = logging.getLogger("sglang_seer")


def repaired(scheduler_info: Any, states: list[dict[str, Any]]) -> Mapping[str, Any]:
    """What /server_info adds to the server's arguments. veRL 0.9.1 takes another of SGLang 0.5.12's results for it."""
    if isinstance(scheduler_info, Mapping):
        return scheduler_info
    return {"max_total_num_tokens": int(states[0]["memory_usage"]["token_capacity"])}


class SeerHttpServer(SGLangHttpServer):  # type: ignore[misc]
    """Raises RuntimeError where Seer was asked for and the engine runs without it."""

    async def launch_server(self, *arguments: Any, **options: Any) -> None:
        load_plugins()
        await super().launch_server(*arguments, **options)
        if self.node_rank > 0:
            return
        states = await self.tokenizer_manager.get_internal_state()
        state = http_server.get_global_state()
        state.scheduler_info = repaired(state.scheduler_info, states)
        seer = seer_of({"internal_states": states})
        if seer == OFF:
            raise RuntimeError(
                f"SGLANG_SEER={mode_from_environment()}, but this engine runs without Seer: see the lines of "
                "sglang_seer in its log"
            )
        logger.warning("seer: %s in veRL's server %s", seer, self.replica_rank)


class SeerReplica(SGLangReplica):  # type: ignore[misc]
    """veRL's replica of servers with Seer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.server_class = ray.remote(SeerHttpServer)
