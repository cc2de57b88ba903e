"""What drafts from finished siblings would have yielded: whole responses are replayed against them, a step at a time.

A response of a group with k finished siblings in the index is drafted for as while it was generated: its own text so
far and theirs. What is accepted is what equals the tokens that were really sampled. Siblings that still ran are left
out, and drafts are chains, as the simulation's are; Seer itself drafts from running siblings too, and trees.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sglang_seer.draft.index import SuffixIndex
from sglang_seer.observe.record import Steps
from sglang_seer.sim.acceptance import PAPER_LONGEST_DRAFT

# Tokens that are taken in until `forget`; more are left out. The index holds them all.
MOST_TOKENS = 1 << 20
MOST_SIBLINGS = 15
_INDEX_BYTES = 64 << 20
_SHARED_BYTES = 1 << 20
_ENDED = object()


@dataclass(frozen=True, slots=True)
class Finished:
    """A response and its prompt, [tokens] int32 each."""

    group: int
    prompt: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int32]


class SiblingDrafts:
    """Replays responses in the order in which they ended."""

    def __init__(self, vocab_size: int, *, most_tokens: int = MOST_TOKENS) -> None:
        self._vocab_size = vocab_size
        self._most_tokens = most_tokens
        self._index = SuffixIndex(vocab_size=vocab_size, max_bytes=_INDEX_BYTES, shared_bytes=_SHARED_BYTES)
        self._waiting: deque[Finished] = deque()
        self._taken_tokens = 0
        self._replay: Iterator[None] | None = None
        self._siblings: dict[int, int] = {}
        self._sequences = 0
        self._steps = [0] * (MOST_SIBLINGS + 1)
        self._tokens = [0] * (MOST_SIBLINGS + 1)
        self.left_out = 0

    def add(self, group: int, prompt: Sequence[int], response: Sequence[int]) -> None:
        """A response of so many tokens has ended; it waits for `work`."""
        tokens = len(prompt) + len(response)
        if self._taken_tokens + tokens > self._most_tokens:
            self.left_out += 1
            return
        self._taken_tokens += tokens
        self._waiting.append(Finished(group, self._token_ids(prompt), self._token_ids(response)))

    def work(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        """Go on for about so long, at least one step if there is any."""
        until_s = clock() + seconds
        while self._replay is not None or self._waiting:
            if self._replay is None:
                self._replay = self._replayed(self._waiting.popleft())
            if next(self._replay, _ENDED) is _ENDED:
                self._replay = None
            if clock() >= until_s:
                return

    @property
    def idle(self) -> bool:
        """Whether all that was added is replayed."""
        return self._replay is None and not self._waiting

    def counts(self) -> list[Steps]:
        """By finished siblings, from 0 to as many as were seen; the last stands for more, too."""
        seen = max((place for place, steps in enumerate(self._steps) if steps), default=-1)
        return [Steps(*pair) for pair in zip(self._steps[: seen + 1], self._tokens[: seen + 1], strict=True)]

    def forget(self) -> None:
        """Other groups come, as in a new window; what was counted stays."""
        self._index.clear()
        self._waiting.clear()
        self._taken_tokens = 0
        self._replay = None
        self._siblings.clear()

    def _replayed(self, one: Finished) -> Iterator[None]:
        """A verification step each time it is asked."""
        if one.group not in self._index:
            self._index.open_group(one.group, one.prompt)
            self._siblings[one.group] = 0
        siblings = min(self._siblings[one.group], MOST_SIBLINGS)
        self._sequences += 1
        group, sequence, tokens = [one.group], [self._sequences], one.tokens
        known = 1  # comes with the prefill
        self._index.append(group, sequence, [0], tokens[:known], [known])
        while known < len(tokens):
            proposal = self._index.propose(group, sequence, [PAPER_LONGEST_DRAFT], PAPER_LONGEST_DRAFT, chain=True)
            wanted = tokens[known : known + len(proposal.tokens)]
            same = np.zeros(len(proposal.tokens), dtype=np.bool_)
            same[: len(wanted)] = np.logical_and.accumulate(proposal.tokens[: len(wanted)] == wanted)
            self._index.observe(proposal, same)
            gained = min(int(same.sum()) + 1, len(tokens) - known)
            self._index.append(group, sequence, [known], tokens[known : known + gained], [gained])
            known += gained
            self._steps[siblings] += 1
            self._tokens[siblings] += gained
            yield
        self._siblings[one.group] += 1

    def _token_ids(self, tokens: Sequence[int]) -> npt.NDArray[np.int32]:
        # Image placeholders are no token ids.
        return np.clip(np.asarray(tokens, dtype=np.int64), 0, self._vocab_size - 1).astype(np.int32)
