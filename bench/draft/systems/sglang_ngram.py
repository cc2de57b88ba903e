"""The n-gram corpus of SGLang (--speculative-algorithm NGRAM), called as its NGRAMWorker calls it.

One corpus serves all requests; groups cannot be told apart and none can be dropped. Every step the worker puts the last
`max_trie_depth` tokens of each running request in again, waits for the insertion thread, and looks the same tails up.
The prompt is not inserted (the worker leaves it out); the configurations with `prompt` do that too, which is the
better use. The first node of its trees is the last known token, so N drafted nodes are `draft_token_num` N + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from bench.draft.drafter import Config, Drafts, PeerUnavailable, Request, Shape

# Defaults of the server: breadth 1 to 10, recency (BFS), depth 18, 10M trie nodes.
SERVER = {"max_trie_depth": 18, "min_bfs_breadth": 1, "max_bfs_breadth": 10, "match_type": "BFS"}
SERVER_CAPACITY = 10_000_000
TREES = ("tree8", "tree16", "tree32")

CONFIGS = (
    Config("sglang_ngram", "default", SERVER, TREES),
    Config("sglang_ngram", "prompt", SERVER | {"prompt": True}, TREES),
    # A smaller depth spends the width on more branches of shorter matches.
    Config("sglang_ngram", "prompt-d8", SERVER | {"prompt": True, "max_trie_depth": 8}, TREES),
)


class SGLangNgram:
    batched = True
    drops: Literal["nothing"] = "nothing"

    def __init__(self, corpus: Any, depth: int, nodes: int, prompt: bool) -> None:
        self._corpus = corpus
        self._depth = depth
        self._nodes = nodes
        self._prompt = prompt
        self._prompts: set[bytes] = set()

    def reshape(self, shape: Shape) -> bool:
        return shape.nodes == self._nodes

    def open(self, requests: Sequence[Request]) -> None:
        if not self._prompt:
            return
        for request in requests:
            prompt = request.tokens[: request.prompt_tokens]
            if prompt.tobytes() not in self._prompts:
                self._prompts.add(prompt.tobytes())
                self._corpus.batch_put([prompt.tolist()])
        self._corpus.synchronize()

    def append_args(self, requests: Sequence[Request], counts: Sequence[int]) -> Any:
        # Context that comes in at once (a tool's answer) is prompt to the worker, which puts in its tail only.
        widths = [self._depth + (count if self._prompt and count > self._depth else 0) for count in counts]
        return [self._tail(request, width) for request, width in zip(requests, widths, strict=True)]

    def append(self, args: Any) -> None:
        self._corpus.batch_put(args)
        self._corpus.synchronize()

    def propose_args(self, requests: Sequence[Request]) -> Any:
        tails = [self._tail(request, self._depth) for request in requests]
        return [str(request.id) for request in requests], tails, [request.known for request in requests]

    def propose(self, args: Any) -> Any:
        return self._corpus.batch_get(*args)

    def drafts(self, proposed: Any) -> Drafts:
        tokens, mask = proposed
        width = self._nodes + 1
        tokens = tokens.reshape(-1, width)
        # The nearest ancestor of a node is its parent; the root is node 0.
        places = np.arange(width)
        ancestors = mask.reshape(-1, width, width).astype(bool) & (places < places[:, None])
        parents = np.where(ancestors, places, -1).max(axis=-1)
        # Token 0 fills the width below the root; no text of this benchmark has it.
        real = (tokens != 0) & (places > 0)
        return Drafts(
            tokens=tokens[real].tolist(),
            parents=(parents[real] - 1).tolist(),
            starts=[0, *np.cumsum(real.sum(axis=1)).tolist()],
            probabilities=None,
        )

    def observe(self, proposed: Any, accepted: Sequence[Sequence[int]]) -> None:
        pass

    def finish(self, request: Request) -> None:
        self._corpus.erase_match_state([str(request.id)])

    def drop_sequence(self, request: Request) -> None:
        pass

    def drop_group(self, requests: Sequence[Request]) -> None:
        pass

    def reported_bytes(self) -> None:
        return None

    def _tail(self, request: Request, width: int) -> list[int]:
        tail: list[int] = request.tokens[max(request.known - width, 0) : request.known].tolist()
        return tail


def make(options: dict[str, Any], shape: Shape, *, vocab_size: int, capacity_tokens: int) -> SGLangNgram:
    """The corpus with the server's capacity, or with less where the text cannot fill more: that never evicts either."""
    try:
        import torch
        from sglang.kernels.ops.speculative.ngram_corpus import get_ngram_corpus_cls
        from sglang.srt.speculative.cpp_ngram.ngram_corpus import NgramCorpus

        # Compiled on first use.
        get_ngram_corpus_cls()
        # One core for all; torch's idle helpers would count as its CPU time.
        torch.set_num_threads(1)
    except (ImportError, RuntimeError, OSError) as error:
        raise PeerUnavailable(f"SGLang's n-gram corpus could not be built or imported: {error}") from error
    options = dict(options)
    prompt = options.pop("prompt", False)
    depth = options["max_trie_depth"]
    capacity = options.pop("capacity", min(SERVER_CAPACITY, capacity_tokens * depth + 1000))
    corpus = NgramCorpus(draft_token_num=shape.nodes + 1, capacity=capacity, **options)
    return SGLangNgram(corpus, depth, shape.nodes, prompt)
