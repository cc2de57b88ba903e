"""Entry point of group `verl.plugins`: veRL imports this module in each process that imports veRL.

Nothing happens unless `SGLANG_SEER` is `on` or `observe`. Then veRL's SGLang servers load Seer, and whatever speaks
against it ends the process: veRL logs a plugin's errors only at DEBUG and would go on without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_seer.config import mode_from_environment
from sglang_seer.integrations.verl.versions import installed, version_reasons
from sglang_seer.plugin import refuse

BACKEND = "sglang"


def reasons() -> list[str]:
    """What speaks against Seer in this environment; empty if nothing does."""
    sglang = installed("sglang")
    missing = (
        [] if sglang else ["SGLang is not installed in this environment; for the versions see docs/verl.md, Install"]
    )
    return [*missing, *version_reasons(installed("verl"), sglang)]


def replica_loader(stock: Callable[[], Any]) -> Callable[[], Any]:
    """In the place of veRL's loader of its SGLang replica, which prepares modules that the import below needs."""

    def load() -> Any:
        stock()
        from sglang_seer.integrations.verl.server import SeerReplica

        return SeerReplica

    return load


def load() -> None:
    """Registers the replica. Ends the process with code 2 and every reason where Seer cannot run."""
    try:
        mode = mode_from_environment()
    except ValueError as error:
        raise refuse([str(error)]) from None
    if mode not in ("on", "observe"):
        return
    if found := reasons():
        raise refuse(found)
    try:
        from verl.workers.rollout.replica import RolloutReplicaRegistry

        RolloutReplicaRegistry.register(BACKEND, replica_loader(RolloutReplicaRegistry._registry[BACKEND]))
    except (ImportError, AttributeError, KeyError) as error:
        raise refuse([f"veRL's registry of replicas is not as expected: {type(error).__name__}: {error}"]) from None


load()
