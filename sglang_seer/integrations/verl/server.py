"""veRL's SGLang server with Seer's plugin in it.

veRL builds SGLang's ServerArgs in its server's process before SGLang loads plugins there; so they are loaded first.
"""

from __future__ import annotations

import logging
from typing import Any

import ray
from verl.workers.rollout.sglang_rollout.async_sglang_server import SGLangHttpServer, SGLangReplica

from sglang_seer.config import mode_from_environment
from sglang_seer.engine import hosted
from sglang_seer.integrations.verl.facts import OFF, mended, seer_of

logger = logging.getLogger("sglang_seer")


class SeerHttpServer(SGLangHttpServer):  # type: ignore[misc]
    """Raises RuntimeError where Seer was asked for and the engine runs without it."""

    async def launch_server(self, *arguments: Any, **options: Any) -> None:
        hosted.prepare()
        await super().launch_server(*arguments, **options)
        if self.node_rank > 0:
            return
        states = await self.tokenizer_manager.get_internal_state()
        hosted.mend_scheduler_info(lambda seen: mended(seen, states))
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
