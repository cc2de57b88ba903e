"""Generated groups: siblings that share phrases, fork, and say things of their own. No licence, no tokenizer."""

from __future__ import annotations

import numpy as np

from bench.draft.drafter import Tokens
from bench.draft.tokens import Response, TokenGroup

VOCAB_SIZE = 4096
MEAN_TOKENS = 500
"""Mean length of a replayed response."""
PHRASES = 200
"""Phrases of a group; a sibling's text is a walk over them."""
GLOBAL_PHRASES = 300
SHARED = 0.4
"""Share of a group's phrases that are taken from the global pool, so that groups have something in common."""
NOVEL = 0.25
"""Chance that a phrase is followed by tokens that no phrase holds."""
FORK = (0.6, 0.25, 0.1, 0.05)
"""Chances of a phrase's four possible successors: the siblings mostly agree on what follows."""


class TextSource:
    """One group's text. Deterministic in (seed, group)."""

    def __init__(self, seed: int, group: int) -> None:
        common = np.random.default_rng([seed, 0])
        self._rng = np.random.default_rng([seed, 1, group])
        # Zipf's law over the vocabulary; token 0 stays free.
        weights = 1.0 / np.arange(1, VOCAB_SIZE) ** 1.05
        self._cumulative = np.cumsum(weights / weights.sum())
        pool = [self._tokens(common, 2, 12) for _ in range(GLOBAL_PHRASES)]
        own = [self._tokens(self._rng, 2, 12) for _ in range(PHRASES)]
        shared = self._rng.random(PHRASES) < SHARED
        places = self._rng.integers(0, GLOBAL_PHRASES, PHRASES)
        self._phrases = [pool[place] if take else mine for take, place, mine in zip(shared, places, own, strict=True)]
        self._next = self._rng.integers(0, PHRASES, (PHRASES, len(FORK)))
        self.prompt = np.concatenate(self._phrases[:8])

    def response(self, length: int) -> Response:
        """One more sibling of `length` tokens."""
        pieces: list[Tokens] = []
        total, place = 0, int(self._rng.integers(0, 8))
        # A phrase has at least 2 tokens, so these are enough.
        draws = length // 2 + 1
        forks = np.searchsorted(np.cumsum(FORK), self._rng.random(draws)).clip(max=len(FORK) - 1).tolist()
        novel = (self._rng.random(draws) < NOVEL).tolist()
        for fork, is_novel in zip(forks, novel, strict=True):
            pieces.append(self._phrases[place])
            if is_novel:
                pieces.append(self._tokens(self._rng, 1, 6))
                total += len(pieces[-1])
            total += len(self._phrases[place])
            if total >= length:
                break
            place = int(self._next[place, fork])
        tokens = np.concatenate(pieces)[:length]
        return Response(tokens, np.ones(len(tokens), dtype=np.bool_))

    def _tokens(self, rng: np.random.Generator, fewest: int, most: int) -> Tokens:
        drawn = np.searchsorted(self._cumulative, rng.random(rng.integers(fewest, most + 1)))
        return drawn.clip(max=VOCAB_SIZE - 2).astype(np.int32) + 1


def groups(*, count: int, siblings: int, mean_tokens: int, seed: int = 0) -> list[TokenGroup]:
    """`count` groups; response lengths vary by a factor of about two around the mean."""
    made = []
    for group in range(count):
        source = TextSource(seed, group)
        lengths = np.random.default_rng([seed, 2, group]).lognormal(np.log(mean_tokens), 0.3, siblings)
        made.append(TokenGroup(source.prompt, [source.response(max(int(length), 1)) for length in lengths]))
    return made
