"""The policies that are compared, as combinations of choices."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Placement(Enum):
    """Where a request runs: fixed at the start by request or group or by true length, or chosen for each chunk."""

    REQUESTS = "requests in turn"
    GROUPS = "groups in turn"
    BUCKETS = "groups of like length together"
    POOL = "each chunk anywhere"


class Order(Enum):
    """Who goes first among those that wait."""

    ARRIVAL = "arrival"
    LIMIT = "largest limit"
    ORACLE = "most true tokens left"
    LONGEST_SIBLING = "Seer's order, the paper's estimate"
    CONTEXT = "Seer's order, an estimate from all that is known"


class Drafts(Enum):
    """Speculative decoding: none, from a request's own text, or from its finished siblings too."""

    NONE = "none"
    OWN = "own"
    GROUP = "group"


@dataclass(frozen=True, slots=True)
class Policy:
    """issued: prompts issued for each that is wanted; above 1 the rollout stops early and carries the rest over."""

    placement: Placement
    order: Order
    drafts: Drafts
    meaning: str
    issued: int = 1

    @property
    def divided(self) -> bool:
        return self.placement is Placement.POOL


POLICIES = {
    "fcfs": Policy(Placement.REQUESTS, Order.ARRIVAL, Drafts.NONE, "stock SGLang: requests in turn, first come"),
    "lof": Policy(Placement.REQUESTS, Order.LIMIT, Drafts.NONE, "SGLang's longest output first, which is by limit"),
    "verl": Policy(Placement.GROUPS, Order.ARRIVAL, Drafts.NONE, "veRL: groups in turn, stock engines"),
    "streamrl-oracle": Policy(
        Placement.BUCKETS, Order.ORACLE, Drafts.NONE, "groups kept whole, bucketed by true length, longest first"
    ),
    "partial": Policy(
        Placement.REQUESTS, Order.ARRIVAL, Drafts.NONE, "partial rollout: twice the prompts, the rest is carried", 2
    ),
    "divided": Policy(Placement.POOL, Order.ARRIVAL, Drafts.NONE, "divided rollout only, first come"),
    "seer-paper": Policy(
        Placement.POOL, Order.LONGEST_SIBLING, Drafts.NONE, "Seer's order with the paper's estimate, longest sibling"
    ),
    "seer": Policy(Placement.POOL, Order.CONTEXT, Drafts.NONE, "divided rollout and context-aware order"),
    "seer-own-drafts": Policy(
        Placement.POOL, Order.CONTEXT, Drafts.OWN, "Seer with drafts from a request's own text only"
    ),
    "seer-spec": Policy(Placement.POOL, Order.CONTEXT, Drafts.GROUP, "all of Seer: drafts from finished siblings too"),
    "seer-engine": Policy(
        Placement.GROUPS, Order.CONTEXT, Drafts.NONE, "Seer inside each engine: groups in turn, order and admission"
    ),
    "seer-engine-spec": Policy(
        Placement.GROUPS, Order.CONTEXT, Drafts.GROUP, "Seer inside each engine, drafts from finished siblings too"
    ),
    "oracle": Policy(Placement.POOL, Order.ORACLE, Drafts.NONE, "divided rollout, true longest first"),
}


def policy(name: str) -> Policy:
    """Raises ValueError for a name that is not here."""
    if name not in POLICIES:
        raise ValueError(f"policy: got {name!r}, wanted one of {', '.join(POLICIES)}")
    return POLICIES[name]
