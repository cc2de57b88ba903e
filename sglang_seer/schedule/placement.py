"""Which engine takes the next chunk (Seer, OSDI 2026, section 3.2).

While engines are balanced, the one with the longest cached prefix; else the one with the least load. Only engines with
room count: chunks are bounded, so what one will need is known before it starts, and no engine has to preempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

BALANCE_SPREAD = 32
BALANCE_SHARE = 0.25
CACHE_GAP_TOKENS = 512


@dataclass(frozen=True, slots=True)
class PlacementRules:
    """balance_spread: requests in flight by which engines may differ and still count as balanced. With few requests
    balance_share of what an engine has on average, and one, counts instead, so that a small rollout is spread too;
    math.inf is the paper's rule, the spread alone. cache_gap_tokens: cached elsewhere, and worth pulling from there."""

    balance_spread: int = BALANCE_SPREAD
    balance_share: float = BALANCE_SHARE
    cache_gap_tokens: int = CACHE_GAP_TOKENS

    def __post_init__(self) -> None:
        for name in ("balance_spread", "balance_share", "cache_gap_tokens"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"{name}: got {value}, wanted at least 0")


@dataclass(slots=True, eq=False)
class EngineLoad:
    """One engine as placement sees it; changed in place by whoever keeps it.

    in_flight: requests of ours. outside: requests of others. reserved_tokens: KV slots that ours may need until their
    chunks end; prompt_tokens: of these, prompts, each counted once for all siblings. slowdown: how much longer its
    tokens take than the median engine's, at least 1.
    """

    name: str
    capacity_tokens: int
    slots: int
    in_flight: int = 0
    reserved_tokens: int = 0
    prompt_tokens: int = 0
    outside: int = 0
    outside_tokens: int = 0
    slowdown: float = 1.0

    @property
    def has_slot(self) -> bool:
        return self.in_flight + self.outside < self.slots

    @property
    def load(self) -> float:
        """Requests with one more, weighed by how long it takes over each."""
        return (self.in_flight + self.outside + 1) * self.slowdown


class Placement(NamedTuple):
    """reason: `affinity` or `load`. pull_from: the engine whose cached prefix is longer by more than the gap."""

    engine: EngineLoad
    reason: str
    pull_from: str | None


def place(
    need_tokens: int, cached_tokens: Mapping[str, int], engines: Iterable[EngineLoad], rules: PlacementRules
) -> Placement | None:
    """An engine for a chunk that may need so many KV slots, None where none has room.

    An idle engine takes anything: what is larger than its memory has no better place.
    cached_tokens: length of the request's prefix that an engine is believed to hold. Equal engines: the first.
    """
    lightest: EngineLoad | None = None
    home: EngineLoad | None = None
    least = home_load = low = float("inf")
    most = total = 0.0
    longest = count = 0
    for engine in engines:
        # `EngineLoad.load` and more, written out: this runs for every engine with every chunk.
        in_flight, outside = engine.in_flight, engine.outside
        load = (in_flight + outside + 1) * engine.slowdown
        count += 1
        total += load
        if load < low:
            low = load
        if load > most:
            most = load
        if in_flight and (
            in_flight + outside >= engine.slots
            or engine.reserved_tokens + engine.outside_tokens + need_tokens > engine.capacity_tokens
        ):
            continue
        if load < least:
            lightest, least = engine, load
        if cached_tokens:
            cached = cached_tokens.get(engine.name, 0)
            if cached > longest or (cached == longest and home is not None and load < home_load):
                home, longest, home_load = engine, cached, load
    if lightest is None:
        return None
    balanced = most - low <= min(rules.balance_spread, 1 + rules.balance_share * total / count)
    if home is not None and balanced:
        return Placement(home, "affinity", None)
    return placed(lightest, "load", cached_tokens, rules)


def placed(engine: EngineLoad, reason: str, cached_tokens: Mapping[str, int], rules: PlacementRules) -> Placement:
    """That engine, with whoever holds much more of the prefix than it does."""
    donor = max(cached_tokens, key=lambda name: cached_tokens[name], default=None)
    gap = cached_tokens[donor] - cached_tokens.get(engine.name, 0) if donor is not None else 0
    return Placement(engine, reason, donor if gap > rules.cache_gap_tokens else None)
