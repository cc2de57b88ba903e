"""Faster synchronous GRPO rollouts in SGLang, with exactly the same samples.

Importing this package is cheap: SGLang reads it in each of its processes. Names below load on first use.
"""

from importlib import import_module

__version__ = "0.1.0"

_LAZY = {
    "EngineClient": "sglang_seer.rollout.client",
    "GenerateRequest": "sglang_seer.rollout.records",
    "Generation": "sglang_seer.rollout.records",
    "Prompt": "sglang_seer.rollout",
    "RolloutConfig": "sglang_seer.rollout",
    "RolloutController": "sglang_seer.rollout",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'sglang_seer' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
