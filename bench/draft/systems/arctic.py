"""The suffix trees of ArcticInference (SuffixDecodingCache), called as its vLLM integration calls them.

Three scopes. `cache`: as shipped, one SuffixDecodingCache; its global tree holds the responses of all requests while
they grow, a local tree per request holds its prompt and response. `group-trees`: one bare SuffixTree a group that holds
its prompt and all responses, which halves the insertions and the memory and gives longer drafts. `one-tree`: the same
with one tree for all groups. There is no batch call; the integration loops over the requests. Arrays are handed over
without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from bench.draft.drafter import Config, Drafts, Request, Shape
from bench.draft.systems.arctic_install import load

LAST_ID = 2**31 - 1

# As shipped: drafts no longer than the match, no token less likely than 0.1, depth 64.
DEFAULT = {"scope": "cache", "depth": 64, "max_spec_factor": 1.0, "max_spec_offset": 0.0, "min_token_prob": 0.1}
# vLLM's depth costs nothing in acceptance and is faster.
VLLM = DEFAULT | {"depth": 24}
LONG = {"depth": 24, "max_spec_factor": 4.0, "max_spec_offset": 0.0, "min_token_prob": 0.02}
# Always the full width, however short the match and unlikely the token.
FULL = {"depth": 24, "max_spec_factor": 1.0, "max_spec_offset": 64.0, "min_token_prob": 0.0}

CONFIGS = (
    Config("arctic", "default", DEFAULT),
    Config("arctic", "cache-long", LONG | {"scope": "cache"}),
    Config("arctic", "cache-full", FULL | {"scope": "cache"}),
    Config("arctic", "group-trees-short", VLLM | {"scope": "group-trees"}),
    Config("arctic", "group-trees-full", FULL | {"scope": "group-trees"}),
    Config("arctic", "one-tree-long", LONG | {"scope": "one-tree"}),
    Config("arctic", "one-tree-full", FULL | {"scope": "one-tree"}),
)
# Those whose times are taken; vLLM's has the acceptance of the default.
TIMED = (CONFIGS[0], Config("arctic", "vllm", VLLM), *CONFIGS[3:5])


class Arctic:
    """What the scopes share: the loop over requests and the form of the drafts."""

    batched = False
    drops: Literal["sequences", "groups"] = "sequences"

    def __init__(self, shape: Shape, options: dict[str, Any]) -> None:
        self._depth: int = options["depth"]
        self._options = options
        self.reshape(shape)

    def reshape(self, shape: Shape) -> bool:
        names = ("max_spec_factor", "max_spec_offset", "min_token_prob")
        self._limits = (shape.nodes, *(self._options[name] for name in names), not shape.chain)
        return True

    def append_args(self, requests: Sequence[Request], counts: Sequence[int]) -> Any:
        new = [r.tokens[r.known - count : r.known] for r, count in zip(requests, counts, strict=True)]
        return list(zip(requests, new, strict=True))

    def propose_args(self, requests: Sequence[Request]) -> Any:
        return [(r, r.tokens[max(r.known - self._depth, 0) : r.known]) for r in requests]

    def drafts(self, proposed: Any) -> Drafts:
        starts = [0]
        for draft in proposed:
            starts.append(starts[-1] + len(draft.token_ids))
        return Drafts(
            tokens=[token for draft in proposed for token in draft.token_ids],
            parents=[parent for draft in proposed for parent in draft.parents],
            starts=starts,
            probabilities=np.array([p for draft in proposed for p in draft.probs], dtype=np.float64),
        )

    def observe(self, proposed: Any, accepted: Sequence[Sequence[int]]) -> None:
        pass


class ArcticCache(Arctic):
    """One SuffixDecodingCache, as shipped."""

    def __init__(self, module: Any, shape: Shape, options: dict[str, Any]) -> None:
        super().__init__(shape, options)
        self._cache = module.SuffixDecodingCache(max_tree_depth=self._depth)

    def open(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._cache.start_request(request.id, request.tokens[: request.prompt_tokens])

    def append(self, args: Any) -> None:
        for request, new in args:
            self._cache.add_active_response(request.id, new)

    def propose(self, args: Any) -> Any:
        return [self._cache.speculate(request.id, context, *self._limits) for request, context in args]

    def finish(self, request: Request) -> None:
        self._cache.stop_request(request.id)

    def drop_sequence(self, request: Request) -> None:
        self._cache.evict_cached_response(request.id)

    def drop_group(self, requests: Sequence[Request]) -> None:
        raise NotImplementedError("the cache evicts response by response")

    def reported_bytes(self) -> int:
        trees = (self._cache._global_tree, *self._cache._local_trees.values())
        return sum(tree.estimate_memory() for tree in trees)


class ArcticTrees(Arctic):
    """Bare SuffixTrees: one a group, or one for all."""

    def __init__(self, module: Any, shape: Shape, options: dict[str, Any], *, shared: bool) -> None:
        super().__init__(shape, options)
        self._tree_class = module.cache.SuffixTree
        self._shared = shared
        if not shared:
            self.drops = "groups"
        self._trees: dict[int, Any] = {}
        self._groups: set[int] = set()

    def _tree(self, group: int) -> Any:
        return self._trees[0 if self._shared else group]

    def open(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.group not in self._groups:
                self._groups.add(request.group)
                tree = self._trees.setdefault(0 if self._shared else request.group, self._tree_class(self._depth))
                # Sequence ids of one tree: the prompts count up from the top, the responses from 0.
                tree.extend_ndarray(LAST_ID - request.group, request.tokens[: request.prompt_tokens])

    def append(self, args: Any) -> None:
        for request, new in args:
            self._tree(request.group).extend_ndarray(request.id, new)

    def propose(self, args: Any) -> Any:
        return [self._tree(request.group).speculate_ndarray(context, *self._limits) for request, context in args]

    def finish(self, request: Request) -> None:
        pass

    def drop_sequence(self, request: Request) -> None:
        self._tree(request.group).remove(request.id)

    def drop_group(self, requests: Sequence[Request]) -> None:
        if self._shared:
            raise NotImplementedError("the tree removes sequence by sequence")
        del self._trees[requests[0].group]

    def reported_bytes(self) -> int:
        return sum(tree.estimate_memory() for tree in self._trees.values())


def make(options: dict[str, Any], shape: Shape, *, vocab_size: int, capacity_tokens: int) -> Arctic:
    module = load()
    if options["scope"] == "cache":
        return ArcticCache(module, shape, options)
    return ArcticTrees(module, shape, options, shared=options["scope"] == "one-tree")
