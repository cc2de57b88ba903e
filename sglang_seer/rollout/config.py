"""The knobs of a rollout over many engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from sglang_seer.schedule import Rules
from sglang_seer.schedule.placement import PlacementRules

_PARTS: dict[str, type[PlacementRules | Rules]] = {"placement": PlacementRules, "rules": Rules}


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """chunk_tokens: most tokens of a chunk. stream_tokens: an engine sends what it has after so many; what it had sent
    when it died is kept. 0: a quarter of the chunk.
    logprobs: of every output token.
    buffer_requests: prompts are taken from their source while fewer requests are unfinished. undelivered_samples: no
    new chunks while so many finished samples wait for the caller.
    one_weight_version: a sample that meets other weights than it began with starts again.
    shared_kv: engines share a KV store: chunks carry the weight version as SGLang's `extra_key`, so that no engine
    takes KV of other weights from it.
    store_s: with shared_kv, how long what a chunk left takes to reach the store: a chunk that moves starts no earlier.
    poll_s: between looks at an engine. router_s: between looks at a router's workers. silent_s: an engine with chunks
    that sends nothing for so long is asked for its health. health_s: and has so long to answer. connect_s: and to take
    a connection. stalled_s: a chunk in which nothing came for so long is broken off and goes on elsewhere.
    no_engine_s: the rollout fails when no engine was up for so long.
    strikes: answers in a row that were none, after which an engine rests. backoff_s: for so long, and twice as long
    each time. most_backoff_s: but no longer.
    fruitless: chunks in a row without a token, after which a sample ends as an error.
    max_running: chunks on one engine at a time; None: what the engine says.
    gc_objects: Python's garbage collector looks at new objects after so many allocations, while a controller is open;
    0 leaves it as it is.
    overflow_risk: chance, with each chunk that starts, that its engine's KV pool overflows before the chunks there end;
    0 only starts what fits for sure.
    placement: which engine takes a chunk. rules: the order of the buffer. Each is an object with keys of its own.
    """

    chunk_tokens: int = 2048
    stream_tokens: int = 0
    logprobs: bool = False
    buffer_requests: int = 32_768
    undelivered_samples: int = 4_096
    one_weight_version: bool = False
    shared_kv: bool = False
    store_s: float = 0.2
    poll_s: float = 1.0
    router_s: float = 5.0
    silent_s: float = 10.0
    health_s: float = 25.0
    connect_s: float = 5.0
    stalled_s: float = 300.0
    no_engine_s: float = 60.0
    strikes: int = 3
    backoff_s: float = 1.0
    most_backoff_s: float = 30.0
    fruitless: int = 16
    max_running: int | None = None
    gc_objects: int = 20_000
    overflow_risk: float = 0.05
    placement: PlacementRules = field(default_factory=PlacementRules)
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        for name in ("chunk_tokens", "buffer_requests", "undelivered_samples", "strikes", "fruitless"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}: got {value}, wanted at least 1")
        for one in fields(self):
            if one.name.endswith("_s") and not getattr(self, one.name) > 0:
                raise ValueError(f"{one.name}: got {getattr(self, one.name)}, wanted more than 0 seconds")
        if not 0 <= self.overflow_risk < 1:
            raise ValueError(f"overflow_risk: got {self.overflow_risk}, wanted 0 or more and less than 1")
        for name in ("stream_tokens", "gc_objects"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{name}: got {value}, wanted at least 0")
        if self.max_running is not None and self.max_running < 1:
            raise ValueError(f"max_running: got {self.max_running}, wanted at least 1 or None")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RolloutConfig:
        """From JSON's objects. Raises ValueError for an unknown key or a value of another type."""
        for kind, given in ((cls, values), *((kind, values.get(name)) for name, kind in _PARTS.items())):
            if isinstance(given, Mapping):
                known = [one.name for one in fields(kind)]
                if unknown := [key for key in given if key not in known]:
                    raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(known)}")
        try:
            return msgspec.convert(dict(values), cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"rollout config: {error}") from error

    @property
    def stream_interval(self) -> int:
        return self.stream_tokens or max(1, self.chunk_tokens // 4)
