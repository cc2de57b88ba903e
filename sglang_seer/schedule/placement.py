"""Which engine takes the next chunk (Seer, OSDI 2026, section 3.2).

While engines are balanced, the one with the longest cached prefix; else the one with the least load. Only engines with
room count: chunks are bounded, so what one will need is known before it starts, and no engine has to preempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

_BY_LOAD = attrgetter("load")

BALANCE_SPREAD = 32
BALANCE_SHARE = 0.25
CACHE_GAP_TOKENS = 512


@dataclass(frozen=True, slots=True)
class PlacementRules:
    """balance_spread: requests in flight by which engines may differ and still count as balanced. balance_share: with
    few requests this share of what an engine has on average, and one, counts instead, so that a small rollout is spread
    too; math.inf is the paper's rule, the spread alone. cache_gap_tokens: cached elsewhere, and worth pulling from
    there."""

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

    def has_room(self, need_tokens: int) -> bool:
        """For a chunk that may need so many KV slots. An idle engine takes anything."""
        return not self.in_flight or (
            self.has_slot and self.reserved_tokens + self.outside_tokens + need_tokens <= self.capacity_tokens
        )

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
    need_tokens: int, cached_tokens: Mapping[str, int], engines: Sequence[EngineLoad], rules: PlacementRules
) -> Placement | None:
    """An engine for a chunk that may need so many KV slots, None where none has room.

    An idle engine takes anything: what is larger than its memory has no better place.
    cached_tokens: length of the request's prefix that an engine is believed to hold. Equal engines: the first.
    """
    if not engines:
        return None
    # `EngineLoad.load`, written out: this runs for every engine with every chunk.
    loads = [(engine.in_flight + engine.outside + 1) * engine.slowdown for engine in engines]
    least = min(loads)
    lightest = engines[loads.index(least)]
    if not lightest.has_room(need_tokens):
        room = [one for one in engines if one.has_room(need_tokens)]
        if not room:
            return None
        lightest = min(room, key=_BY_LOAD)
    if cached_tokens and max(loads) - least <= min(
        rules.balance_spread, 1 + rules.balance_share * sum(loads) / len(loads)
    ):
        homes = [one for one in engines if cached_tokens.get(one.name) and one.has_room(need_tokens)]
        if homes:
            home = min(homes, key=lambda one: (-cached_tokens[one.name], one.load))
            return Placement(home, "affinity", None)
    return placed(lightest, "load", cached_tokens, rules)


def placed(engine: EngineLoad, reason: str, cached_tokens: Mapping[str, int], rules: PlacementRules) -> Placement:
    """That engine, with whoever holds much more of the prefix than it does."""
    donor = max(cached_tokens, key=lambda name: cached_tokens[name], default=None)
    gap = cached_tokens[donor] - cached_tokens.get(engine.name, 0) if donor is not None else 0
    return Placement(engine, reason, donor if gap > rules.cache_gap_tokens else None)
