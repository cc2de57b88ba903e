"""The draft source of one engine: feeds live requests into the suffix index and asks it for trees."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sglang_seer.draft import Proposal, SuffixIndex
from sglang_seer.engine.requests import RequestState, RequestStates


def pending_tokens(seq_len: int, input_tokens: int, output_tokens: int, last_run: Sequence[int]) -> Sequence[int]:
    """Tokens of a request that are sampled but not in its `output_ids` yet: the end of its last accepted run.

    seq_len: tokens in the KV cache, which lacks only the newest one. last_run: what the last step accepted. Under
    overlap scheduling a result is processed one step late, but not when another batch ran in between.
    """
    missing = seq_len + 1 - input_tokens - output_tokens
    assert 0 <= missing <= len(last_run), (seq_len, input_tokens, output_tokens, len(last_run))
    return last_run[len(last_run) - missing :]


class DraftSource:
    """Keeps the index in step with the requests; the groups untouched for longest are dropped at the token limit."""

    def __init__(self, states: RequestStates, *, vocab_size: int, max_tokens: int, depth: int, chain: bool) -> None:
        self.states = states
        self._vocab_size = vocab_size
        self._max_tokens = max_tokens
        self._depth = depth
        self._chain = chain
        self._index = SuffixIndex(vocab_size=vocab_size)
        self._groups: OrderedDict[int, int] = OrderedDict()  # open groups and their epochs
        self._opened = 0

    def append(self, requests: Sequence[Any], pending: Sequence[Sequence[int]]) -> None:
        """Append what the requests have generated since the last call.

        pending: tokens of each request that were sampled but are not in its `output_ids` yet (overlap scheduling).
        """
        groups, sequences, offsets, lengths = [], [], [], []
        pieces: list[npt.NDArray[np.int32]] = []
        for request, extra in zip(requests, pending, strict=True):
            state = self.states.of(request)
            if state.identity is None:
                continue
            self._open(request, state)
            piece = self._new_tokens(request, state, extra)
            if not len(piece):
                continue
            groups.append(state.index_group)
            sequences.append(state.index_sequence)
            offsets.append(state.sequence_tokens)
            lengths.append(len(piece))
            pieces.append(piece)
            state.sequence_tokens += len(piece)
        if pieces:
            self._index.append(groups, sequences, offsets, np.concatenate(pieces), lengths)
            self._trim()

    def propose(self, requests: Sequence[Any], budgets: npt.NDArray[np.int32]) -> Proposal:
        """One tree a request, at most `budgets[i]` nodes; requests without a group get none."""
        states = [self.states.of(request) for request in requests]
        known = [i for i, state in enumerate(states) if state.index_group in self._groups]
        proposal = self._index.propose(
            [states[i].index_group for i in known],
            [states[i].index_sequence for i in known],
            budgets[known],
            self._depth,
            chain=self._chain,
        )
        if len(known) == len(states):
            return proposal
        counts = np.zeros(len(states), dtype=np.int64)
        counts[known] = np.diff(proposal.starts)
        starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
        return Proposal(proposal.tokens, proposal.parents, proposal.probabilities, proposal.depths, starts)

    def clear(self) -> None:
        """Forget everything: the weights changed."""
        self._index.clear()
        self._groups.clear()

    @property
    def num_tokens(self) -> int:
        """Tokens kept as draft source."""
        return self._index.num_tokens

    def _open(self, request: Any, state: RequestState) -> None:
        """Make sure the request's group is open; a request that knew it before it was dropped starts anew."""
        group = state.index_group
        if group in self._groups:
            self._groups.move_to_end(group)
        else:
            assert state.identity is not None
            self._index.open_group(
                group, self._token_ids(request.origin_input_ids_unpadded[: state.identity.prompt_tokens])
            )
            self._opened += 1
            self._groups[group] = self._opened
        if state.index_epoch != self._groups[group]:
            state.index_epoch, state.sequence_tokens = self._groups[group], 0

    def _token_ids(self, tokens: Sequence[int]) -> npt.NDArray[np.int32]:
        # Image placeholders of multimodal prompts are no token ids; clipped, they match nothing useful.
        return np.clip(np.asarray(tokens, dtype=np.int64), 0, self._vocab_size - 1).astype(np.int32)

    def _new_tokens(self, request: Any, state: RequestState, extra: Sequence[int]) -> npt.NDArray[np.int32]:
        assert state.identity is not None
        # Input behind the prompt is what earlier chunks of this response generated.
        earlier = len(request.origin_input_ids_unpadded) - state.identity.prompt_tokens
        known = state.sequence_tokens
        tokens: list[int] = []
        if known < earlier:
            tokens += request.origin_input_ids_unpadded[state.identity.prompt_tokens + known :]
            known = earlier
        generated = len(request.output_ids)
        if known - earlier < generated:
            tokens += request.output_ids[known - earlier :]
            known = earlier + generated
        tokens += extra[known - earlier - generated :]
        return self._token_ids(tokens)

    def _trim(self) -> None:
        while self._index.num_tokens > self._max_tokens and len(self._groups) > 1:
            group, _ = self._groups.popitem(last=False)
            self._index.drop_group(group)
