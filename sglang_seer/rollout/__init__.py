"""A rollout over many engines: HTTP only, no SGLang.

    async with RolloutController(["http://a:30000", "http://b:30000"], tokenizer=tokenizer) as rollout:
        async for sample in rollout.samples([Prompt(group="p1", text="2 + 2 =", samples=8)]):
            ...

The names below load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sglang_seer.rollout.client import EngineError as EngineError
    from sglang_seer.rollout.client import RolloutError as RolloutError
    from sglang_seer.rollout.config import RolloutConfig as RolloutConfig
    from sglang_seer.rollout.controller import RolloutController as RolloutController
    from sglang_seer.rollout.events import EventLog as EventLog
    from sglang_seer.rollout.journal import Journal as Journal
    from sglang_seer.rollout.samples import Chunk as Chunk
    from sglang_seer.rollout.samples import Group as Group
    from sglang_seer.rollout.samples import Prompt as Prompt
    from sglang_seer.rollout.samples import Sample as Sample

_LAZY = {
    "Chunk": "samples",
    "EngineError": "client",
    "EventLog": "events",
    "Group": "samples",
    "Journal": "journal",
    "Prompt": "samples",
    "RolloutConfig": "config",
    "RolloutController": "controller",
    "RolloutError": "client",
    "Sample": "samples",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'sglang_seer.rollout' has no attribute {name!r}")
    return getattr(import_module(f"sglang_seer.rollout.{_LAZY[name]}"), name)
