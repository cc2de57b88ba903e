"""Which veRL and SGLang were tested together, and what else speaks against Seer in a veRL job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# SGLang lines for each veRL: the one that it pins.
Table = Mapping[str, tuple[str, ...]]
TESTED: Table = {"0.9.1": ("0.5.12",)}
ALLOW_UNTESTED_ENV = "SGLANG_SEER_ALLOW_UNTESTED"


def installed(name: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def version_reasons(verl: str | None, sglang: str | None, *, tested: Table = TESTED) -> list[str]:
    """Why these versions do not go together; empty if they do. sglang: None where it is not in this environment."""
    if os.environ.get(ALLOW_UNTESTED_ENV) == "1":
        return []
    if verl not in tested:
        return [f"veRL {verl} was not tested with Seer; tested: {', '.join(tested)} ({ALLOW_UNTESTED_ENV}=1 tries it)"]
    if sglang is not None and sglang not in tested[verl]:
        return [
            f"SGLang {sglang} was not tested with veRL {verl}; tested: {', '.join(tested[verl])} "
            f"({ALLOW_UNTESTED_ENV}=1 tries it)"
        ]
    return []


def config_reasons(rollout: Mapping[str, Any]) -> list[str]:
    """What in `actor_rollout_ref.rollout` cannot be combined with Seer's agent-loop manager."""
    reasons = []
    if rollout.get("name") != "sglang":
        reasons.append(f"rollout.name: got {rollout.get('name')!r}, wanted 'sglang'")
    if not rollout.get("router_config_path"):
        reasons.append(
            "rollout.router_config_path: got none, wanted a YAML file with "
            "router_class: sglang_seer.integrations.verl.SeerRouter"
        )
    if (rollout.get("disaggregation") or {}).get("enabled"):
        reasons.append("rollout.disaggregation.enabled: prefill/decode disaggregation was not tested with chunks")
    if (rollout.get("mtp") or {}).get("enable") and (rollout.get("mtp") or {}).get("enable_rollout"):
        reasons.append("rollout.mtp.enable_rollout: its draft model and Seer's drafts exclude each other")
    return reasons
