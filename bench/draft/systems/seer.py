"""Our index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from bench.draft.drafter import Config, Drafts, Request, Shape
from sglang_seer.draft import Proposal, SuffixIndex

# The first one is what the engine runs and what is compared with the peers.
GROUP_ONLY = Config("seer", "group-only", {"shared_bytes": 0})
CONFIGS = (Config("seer", "default", {}), GROUP_ONLY)


class Seer:
    batched = True
    drops: Literal["groups"] = "groups"

    def __init__(self, index: SuffixIndex, shape: Shape) -> None:
        self._index = index
        self._shape = shape

    def reshape(self, shape: Shape) -> bool:
        self._shape = shape
        return True

    def open(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._index.open_group(request.group, request.tokens[: request.prompt_tokens])

    def append_args(self, requests: Sequence[Request], counts: Sequence[int]) -> Any:
        lengths = np.array(counts, dtype=np.int64)
        known = np.array([request.known for request in requests], dtype=np.int64)
        prompts = np.array([request.prompt_tokens for request in requests], dtype=np.int64)
        pieces = [r.tokens[r.known - count : r.known] for r, count in zip(requests, counts, strict=True)]
        return (*_identities(requests), known - prompts - lengths, np.concatenate(pieces), lengths)

    def append(self, args: Any) -> None:
        self._index.append(*args)

    def propose_args(self, requests: Sequence[Request]) -> Any:
        return (*_identities(requests), np.full(len(requests), self._shape.nodes, dtype=np.int32))

    def propose(self, args: Any) -> Proposal:
        groups, sequences, budgets = args
        return self._index.propose(groups, sequences, budgets, self._shape.nodes, chain=self._shape.chain)

    def drafts(self, proposed: Proposal) -> Drafts:
        return Drafts(
            tokens=proposed.tokens.tolist(),
            parents=proposed.parents.tolist(),
            starts=proposed.starts.tolist(),
            probabilities=proposed.probabilities.astype(np.float64),
        )

    def observe(self, proposed: Proposal, accepted: Sequence[Sequence[int]]) -> None:
        flags = np.zeros(len(proposed.tokens), dtype=np.bool_)
        for start, nodes in zip(proposed.starts.tolist(), accepted, strict=False):
            flags[[start + node for node in nodes]] = True
        self._index.observe(proposed, flags)

    def finish(self, request: Request) -> None:
        pass

    def drop_sequence(self, request: Request) -> None:
        self._index.drop_sequence(request.group, request.id)

    def drop_group(self, requests: Sequence[Request]) -> None:
        self._index.drop_group(requests[0].group)

    def reported_bytes(self) -> int:
        return self._index.memory_bytes


def make(options: dict[str, Any], shape: Shape, *, vocab_size: int, capacity_tokens: int) -> Seer:
    return Seer(SuffixIndex(vocab_size=vocab_size, **options), shape)


def _identities(requests: Sequence[Request]) -> tuple[Any, Any]:
    groups = np.array([request.group for request in requests], dtype=np.int64)
    return groups, np.array([request.id for request in requests], dtype=np.int64)
