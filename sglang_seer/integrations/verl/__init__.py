"""Seer in veRL, by configuration:

    actor_rollout_ref.rollout.router_config_path: a YAML file with
        router_class: sglang_seer.integrations.verl.SeerRouter
    actor_rollout_ref.rollout.agent.agent_loop_manager_class: sglang_seer.integrations.verl.SeerAgentLoopManagerTQ
        (SeerAgentLoopManager for the trainers of `verl.trainer.main_ppo_v0`)

The names load on first use: veRL and Ray take seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sglang_seer.integrations.verl.client import SeerClient as SeerClient
    from sglang_seer.integrations.verl.manager import SeerAgentLoopManager as SeerAgentLoopManager
    from sglang_seer.integrations.verl.manager_tq import SeerAgentLoopManagerTQ as SeerAgentLoopManagerTQ
    from sglang_seer.integrations.verl.router import SeerRouter as SeerRouter

_LAZY = {
    "SeerAgentLoopManager": "manager",
    "SeerAgentLoopManagerTQ": "manager_tq",
    "SeerClient": "client",
    "SeerRouter": "router",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'sglang_seer.integrations.verl' has no attribute {name!r}")
    return getattr(import_module(f"sglang_seer.integrations.verl.{_LAZY[name]}"), name)
