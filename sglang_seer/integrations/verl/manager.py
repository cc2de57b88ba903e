"""veRL's agent-loop workers and manager with Seer's client; the agent loops stay veRL's or the user's own."""

from __future__ import annotations

import logging
from typing import Any

import ray
from verl.experimental.agent_loop import AgentLoopManager, AgentLoopWorker
from verl.workers.rollout.utils import get_max_position_embeddings

from sglang_seer.integrations.verl.chunks import Lengths
from sglang_seer.integrations.verl.client import SeerClient
from sglang_seer.integrations.verl.trajectory import trajectory_of, within
from sglang_seer.integrations.verl.versions import config_reasons, installed, version_reasons

logger = logging.getLogger("sglang_seer")


class SeerWorker:
    """Goes before veRL's worker: prepares the client, and marks what a trajectory sends."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        prepare(self)

    async def _run_agent_loop(self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **fields: Any) -> Any:
        with within(trajectory_of(fields, trajectory["rollout_n"])):
            return await super()._run_agent_loop(sampling_params, trajectory, **fields)  # type: ignore[misc]


def prepare(worker: Any) -> None:
    """Tells a worker's client what only the worker knows."""
    rollout, hf_config = worker.rollout_config, worker.model_config.hf_config
    generation = worker.model_config.generation_config
    ends: set[int] = set()
    for source in (hf_config, generation, worker.tokenizer):
        ids = getattr(source, "eos_token_id", None)
        ends.update([ids] if isinstance(ids, int) else ids or ())
    longest = get_max_position_embeddings(hf_config)
    worker.llm_client.prepare(
        tokenizer=worker.tokenizer,
        eos_token_ids=ends,
        lengths=Lengths(
            prompt_length=rollout.prompt_length,
            response_length=rollout.response_length,
            max_model_len=rollout.max_model_len or longest,
        ),
    )


class SeerAgentLoopWorker(SeerWorker, AgentLoopWorker):  # type: ignore[misc]
    """veRL's worker with Seer's client."""


class SeerManager:
    """Goes before veRL's manager: refuses what does not fit together, and puts Seer's client in."""

    def __init__(self, config: Any, llm_client: Any, *arguments: Any, **options: Any) -> None:
        reasons = version_reasons(installed("verl"), installed("sglang"))
        reasons += config_reasons(config.actor_rollout_ref.rollout)
        if reasons:
            raise RuntimeError("sglang-seer refuses to start: " + "; ".join(reasons))
        super().__init__(config, SeerClient.of(llm_client), *arguments, **options)

    async def _init_agent_loop_workers(self) -> None:
        about = await self.llm_client.check()  # type: ignore[attr-defined]
        engines = ", ".join(f"{name} ({seer})" for name, seer in about["engines"].items()) or "none yet"
        logger.warning(
            "seer: on in veRL %s: chunks of at most %d tokens; engines: %s",
            installed("verl"),
            about["chunk_tokens"],
            engines,
        )
        await super()._init_agent_loop_workers()  # type: ignore[misc]


class SeerAgentLoopManager(SeerManager, AgentLoopManager):  # type: ignore[misc]
    """For the trainers of `verl.trainer.main_ppo_v0`. Raises RuntimeError with every reason where it cannot run."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.agent_loop_workers_class = ray.remote(SeerAgentLoopWorker)
        super().__init__(*arguments, **options)
