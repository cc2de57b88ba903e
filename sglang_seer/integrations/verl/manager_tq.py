"""The same for the trainers of `verl.trainer.main_ppo`, whose samples go through a TransferQueue."""

from __future__ import annotations

from typing import Any

import ray
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from sglang_seer.integrations.verl.manager import SeerManager, SeerWorker

# veRL exports the Ray actor class; this is the class it was made from.
_WorkerTQ: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class SeerAgentLoopWorkerTQ(SeerWorker, _WorkerTQ):  # type: ignore[misc]
    """veRL's worker with Seer's client."""


class SeerAgentLoopManagerTQ(SeerManager, AgentLoopManagerTQ):  # type: ignore[misc]
    """Raises RuntimeError with every reason where it cannot run."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.agent_loop_workers_class = ray.remote(SeerAgentLoopWorkerTQ)
