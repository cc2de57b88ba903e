"""What is active in this process, and why not: read by the start line, /server_info and `doctor`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sglang_seer.config import SeerConfig

logger = logging.getLogger("sglang_seer")


@dataclass(slots=True)
class Status:
    """Mutable, one per process.

    parts: active parts of Seer by name. calls: how often each hook ran. counters: what happened since the start.
    sources: parts that report on themselves when the status is read.
    """

    mode: str = "off"
    sglang_version: str | None = None
    config: SeerConfig | None = None
    parts: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    sources: dict[str, Callable[[], dict[str, Any]]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain types only, for JSON and msgpack."""
        from sglang_seer import __version__

        return {
            "version": __version__,
            "sglang_version": self.sglang_version,
            "mode": self.mode,
            "parts": list(self.parts),
            "reasons": list(self.reasons),
            "config": self.config.shown() if self.config else None,
            "calls": dict(self.calls),
            "counters": dict(self.counters),
            **{name: report() for name, report in self.sources.items()},
        }

    def first(self, counter: str, message: str, *args: object) -> None:
        """Count an event and log one line the first time it happens."""
        self.counters[counter] += 1
        if self.counters[counter] == 1:
            logger.warning("seer: " + message, *args)


STATUS = Status()
