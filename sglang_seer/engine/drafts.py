"""The draft source of one engine: feeds live requests into the suffix index and asks it for trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sglang_seer.draft import Proposal, SuffixIndex
from sglang_seer.draft.index import MAX_DEPTH
from sglang_seer.engine.requests import RequestState, RequestStates
from sglang_seer.engine.sharing import NO_LENGTHS, Lengths, Sharing


def pending_tokens(seq_len: int, input_tokens: int, output_tokens: int, last_run: Sequence[int]) -> Sequence[int]:
    """Tokens of a request that are sampled but not in its `output_ids` yet: the end of its last accepted run.

    seq_len: tokens in the KV cache, which lacks only the newest one. last_run: what the last step accepted. Under
    overlap scheduling a result is processed one step late, but not when another batch ran in between.
    """
    missing = seq_len + 1 - input_tokens - output_tokens
    assert 0 <= missing <= len(last_run), (seq_len, input_tokens, output_tokens, len(last_run))
    return last_run[len(last_run) - missing :]


class DraftSource:
    """Keeps the index in step with the requests, and learns from what became of its drafts."""

    def __init__(
        self,
        states: RequestStates,
        index: SuffixIndex,
        *,
        vocab_size: int,
        memory: bool = False,
        sharing: Sharing | None = None,
    ) -> None:
        """Draft for the requests of one engine.

        vocab_size: of the index. memory: after a flush, the responses of the weights before serve as those of
        siblings of the same prompt. sharing: with other engines.
        """
        self.states = states
        self._sharing = sharing
        self._vocab_size = vocab_size
        self._index = index
        self._memory = memory
        self._version = 0
        self._opened = 0
        self._open: dict[int, int] = {}  # group of the requests -> group of the index, for this version
        self._of_prompt: dict[int, int] = {}  # prompt -> group of the index, for this version
        self._remembered: dict[int, int] = {}  # the same for the version before
        self._closed = 0  # groups that the index has closed by itself
        # By depth, the root's included, which stays 0.
        self._drafted = np.zeros(MAX_DEPTH + 1, dtype=np.int64)
        self._accepted = np.zeros(MAX_DEPTH + 1, dtype=np.int64)

    def enter(self, requests: Sequence[Any]) -> None:
        """These requests are about to decode: their siblings on other engines may be fetched meanwhile."""
        self._forget_closed()
        for request in requests:
            state = self.states.of(request)
            if state.identity is not None:
                self._enter(request, state)

    def receive(self, version: int = 0) -> Lengths:
        """Take in what siblings on other engines wrote, at the start of a step; returns lengths that ended there.

        version: of the weights, for the bus.
        """
        if self._sharing is None:
            return NO_LENGTHS
        self._forget_closed()
        self._sharing.receive(version)
        return self._sharing.lengths()

    def absorb(self) -> None:
        """Begin to take what was received into the index, once a step's trees are made."""
        if self._sharing is not None:
            self._forget_closed()
            self._sharing.absorb()

    def append(self, requests: Sequence[Any], pending: Sequence[Sequence[int]]) -> None:
        """Append what the requests have generated since the last call.

        pending: tokens of each request that were sampled but are not in its `output_ids` yet (overlap scheduling).
        """
        self._forget_closed()
        grown: list[RequestState] = []
        offsets: list[int] = []
        pieces: list[npt.NDArray[np.int32]] = []
        for request, extra in zip(requests, pending, strict=True):
            state = self.states.of(request)
            if state.identity is None:
                continue
            self._enter(request, state)
            piece = self._new_tokens(request, state, extra)
            if not len(piece):
                continue
            grown.append(state)
            offsets.append(state.sequence_tokens)
            pieces.append(piece)
            state.sequence_tokens += len(piece)
        if not pieces:
            return
        groups, sequences = [state.index_id for state in grown], [state.index_sequence for state in grown]
        self._index.append(groups, sequences, offsets, np.concatenate(pieces), [len(piece) for piece in pieces])
        if self._sharing is not None:
            self._sharing.publish(grown, offsets, pieces)

    def finish(self, request: Any, length: int, *, whole: bool) -> None:
        """Take the last tokens of a request. length: of the response so far; whole: it ends here, no chunk follows."""
        self.append([request], [()])
        if self._sharing is not None and whole:
            self._sharing.finish(self.states.of(request), length)

    def propose(self, requests: Sequence[Any], budgets: npt.NDArray[np.int32], depth: int, *, chain: bool) -> Proposal:
        """One tree a request, at most `budgets[i]` nodes; requests without a group get none."""
        states = [self.states.of(request) for request in requests]
        known = [i for i, state in enumerate(states) if self._open.get(state.index_group) == state.index_id]
        proposal = self._index.propose(
            [states[i].index_id for i in known],
            [states[i].index_sequence for i in known],
            budgets[known],
            depth,
            chain=chain,
        )
        if len(known) == len(states):
            return proposal
        counts = np.zeros(len(states), dtype=np.int64)
        counts[known] = np.diff(proposal.starts)
        starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
        return replace(proposal, starts=starts)

    def observe(self, proposal: Proposal, accepted: npt.NDArray[np.bool_]) -> None:
        """Learn from a verified proposal; accepted: [num_nodes]."""
        self._index.observe(proposal, accepted)
        self._drafted += np.bincount(proposal.depths, minlength=len(self._drafted))
        self._accepted += np.bincount(proposal.depths[accepted], minlength=len(self._accepted))

    def drop(self, request: Any) -> None:
        """Forget the response of an aborted request."""
        state = self.states.of(request)
        if self._open.get(state.index_group) == state.index_id:
            self._index.drop_sequence(state.index_id, state.index_sequence)
            state.index_id = 0

    def clear(self, version: int = 0) -> None:
        """The weights changed: forget everything, or all but the last version's responses.

        version: of the weights, for the bus.
        """
        if self._sharing is not None:
            self._sharing.restart(version)
        if self._memory:
            self._index.drop_version(self._version - 1)
            self._remembered = self._of_prompt
        else:
            self._index.clear()
        self._version += 1
        self._open = {}
        self._of_prompt = {}

    def status(self) -> dict[str, Any]:
        """Size of the index, what it lost at its limits, and what became of drafts by depth, from 1 on."""
        deepest = int(np.flatnonzero(self._drafted).max(initial=0))
        return {
            "drafted_by_depth": self._drafted[1 : deepest + 1].tolist(),
            "accepted_by_depth": self._accepted[1 : deepest + 1].tolist(),
            "groups": self._index.num_groups,
            "tokens": self._index.num_tokens,
            "bytes": self._index.memory_bytes,
            **self._index.counters,
        }

    def _enter(self, request: Any, state: RequestState) -> None:
        """Make sure the request's group is open; a request that knew it before it was closed starts anew."""
        group = state.index_group
        if group not in self._open:
            assert state.identity is not None
            self._opened += 1
            self._index.open_group(
                self._opened,
                self._token_ids(request.origin_input_ids_unpadded[: state.identity.prompt_tokens]),
                version=self._version,
                memory=self._remembered.get(state.prompt),
            )
            self._open[group] = self._opened
            if self._memory:
                self._of_prompt[state.prompt] = self._opened
        if state.index_id != self._open[group]:
            state.index_id, state.sequence_tokens = self._open[group], 0
            if self._sharing is not None:
                self._sharing.follow(state, state.index_id)

    def _forget_closed(self) -> None:
        if self._sharing is not None:
            self._sharing.settle()
        counters = self._index.counters
        closed = counters["evicted_groups"] + counters["expired_groups"]
        if closed != self._closed:
            self._closed = closed
            self._open = {group: opened for group, opened in self._open.items() if opened in self._index}
            if self._sharing is not None:
                self._sharing.close_all_but(self._open)

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
