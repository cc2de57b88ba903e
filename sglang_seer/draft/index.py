"""Suffix index over grouped responses, and the draft trees it proposes.

Grouped speculative decoding as in Seer (OSDI 2026, section 3.4): responses to one prompt share token
patterns, so what siblings wrote after the same tokens is a good draft. Where the paper keeps one
compressed suffix tree a group, this index keeps raw tokens, hash heads of short suffixes and links to
earlier occurrences (an implicit suffix tree); the work is done in C++, see ``csrc/``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sglang_seer.draft import _index

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Int32Array = NDArray[np.int32]
    Int64Array = NDArray[np.int64]
    Float32Array = NDArray[np.float32]
    BoolArray = NDArray[np.bool_]

MAX_BUDGET: int = _index.MAX_BUDGET
MAX_DEPTH: int = _index.MAX_DEPTH


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """Draft trees of a batch; the tree of request i is ``starts[i]:starts[i + 1]`` of each array.

    The root of a tree is the last known token of its sequence and is not a node. Nodes come breadth
    first: by depth, then by their parent's place, then by falling probability (the smaller token
    first on a tie). So parents precede children, and siblings differ in their token.
    """

    tokens: Int32Array
    """[num_nodes] int32."""
    parents: Int32Array
    """[num_nodes] int32, counted from the first node of the request's own tree; -1 below the root."""
    probabilities: Float32Array
    """[num_nodes] float32, the estimated probability that the node's whole path is accepted."""
    depths: Int32Array
    """[num_nodes] int32, 1 for children of the root."""
    evidence: Int64Array
    """[num_nodes] int64, what the estimate came from; for ``SuffixIndex.observe``."""
    starts: Int64Array
    """[num_requests + 1] int64."""

    def select(self, kept: BoolArray) -> Proposal:
        """The proposal without some nodes.

        kept: [num_nodes] bool; a node that is kept must have a parent that is kept, as holds for any lower
        bound on the probability.

        Raises:
            ValueError: a node is kept and its parent is not, or the size is wrong.
        """
        if kept.shape != self.tokens.shape:
            raise ValueError(f"kept has shape {kept.shape}, wanted {self.tokens.shape}, one for each node")
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(kept)])  # kept nodes before each node
        firsts = np.repeat(self.starts[:-1], np.diff(self.starts))[kept]
        parents = self.parents[kept] + firsts
        below_a_node = self.parents[kept] >= 0
        if not kept[parents[below_a_node]].all():
            raise ValueError("kept holds a node whose parent it does not hold")
        moved = np.where(below_a_node, before[parents] - before[firsts], -1)
        return Proposal(
            self.tokens[kept],
            moved.astype(np.int32),
            self.probabilities[kept],
            self.depths[kept],
            self.evidence[kept],
            before[self.starts],
        )


class SuffixIndex:
    """The tokens of all open groups, and drafts from them.

    A sequence's text is its group's prompt followed by its response. A draft for a sequence looks up
    the suffixes of its text: in its own response, in the prompt and in its siblings, and where they
    were seen last in other groups. Every earlier occurrence votes for the token that followed it;
    longer matches count more, own text more than that of siblings, and that more than other groups'.

    All methods are thread-safe (one mutex) and release the GIL while they work; the arrays passed in
    must not be written to meanwhile. Arrays of another integer type than the one named are
    converted if every value fits.

    Determinism: the same calls in the same order give the same proposals, everywhere and with any
    number of threads. Beyond that, the order of the items within one ``append`` changes nothing
    (provided that items which overlap agree), nor, as long as no limit is reached, does the way a
    sequence's tokens are cut into items. Where a suffix occurs more often than is looked at, its
    newest occurrences vote: newest by call, then by sequence id within a call, then by position.

    Limits are hard. At a limit the oldest text goes first, page by page (128 tokens), that of the
    least recently used groups before others; ``counters`` tells how much. The length of a sequence
    counts evicted tokens, too, so that appending goes on as before. Memory is taken from the system
    as needed and kept.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        max_match: int = 32,
        max_candidates: int = 16,
        max_bytes: int = 4 << 30,
        max_tokens: int = 1 << 32,
        group_max_bytes: int = 1 << 30,
        group_max_tokens: int = 1 << 30,
        ttl_steps: int = 0,
        shared_bytes: int = 16 << 20,
        threads: int = 1,
    ) -> None:
        """Make an empty index.

        Args:
            vocab_size: token ids are 0 to ``vocab_size - 1``.
            max_match: longest match, in tokens, that is told apart from longer ones; 4 to 256.
            max_candidates: occurrences looked at in a group for each of the suffix lengths 4, 2 and
                1, newest first; once half as many have matched, shorter suffixes are left out; 1 to
                256.
            max_bytes: of memory, over all groups; at least 4 MiB, and twice ``shared_bytes``.
                ``memory_bytes`` stays below as long as the groups of one call need no more than a
                sixteenth of it for their bookkeeping (about 1 kB each).
            max_tokens: stored over all groups; at least 1024.
            group_max_bytes: of memory for one group; at least 64 KiB.
            group_max_tokens: stored of one group; at least 1024.
            ttl_steps: a group that no call named for more proposals than this is dropped; 0: never.
            shared_bytes: of the tables of what was seen last and most in all groups, part of
                ``max_bytes``, at most half of it; 0 drafts from the own group only.
            threads: that work on one ``propose``; a batch is shared out from 64 requests a thread on.

        Raises:
            ValueError: a value is out of its range.
        """
        self._index = _index.SuffixIndex(
            vocab_size=vocab_size,
            max_match=max_match,
            max_candidates=max_candidates,
            max_bytes=max_bytes,
            max_tokens=max_tokens,
            group_max_bytes=group_max_bytes,
            group_max_tokens=group_max_tokens,
            ttl_steps=ttl_steps,
            shared_bytes=shared_bytes,
            threads=threads,
        )

    def open_group(self, group: int, prompt: ArrayLike, *, version: int = 0, memory: int | None = None) -> None:
        """Store a group's prompt, [prompt_tokens] int32. Opening it again changes nothing.

        Args:
            group: its id.
            prompt: token ids.
            version: of the weights that its responses come from, for ``drop_version``.
            memory: a group whose responses count as those of siblings as long as it is open, such as
                the one of the same prompt in an earlier step.

        Raises:
            ValueError: the group is open with another prompt, or a token id is out of range.
            TypeError: the prompt is not an array of integers.
        """
        tokens = _integers("prompt", prompt, np.int32)
        self._index.open_group(group, tokens, version, group if memory is None else memory)

    def append(
        self,
        groups: ArrayLike,
        sequences: ArrayLike,
        offsets: ArrayLike,
        tokens: ArrayLike,
        lengths: ArrayLike,
    ) -> None:
        """Append response tokens of a batch of sequences.

        Item i says that the response of sequence ``sequences[i]`` has, from ``offsets[i]`` on, the
        next ``lengths[i]`` of ``tokens``. Idempotent: what lies within the stored length is ignored,
        even where it differs from what is stored. Several items may belong to one sequence, in any
        order. The batch is checked as a whole before anything is changed.

        A call takes the tokens in and makes up to 4,096 of them findable, the oldest first; what is
        left over follows in the next calls of ``append`` and ``propose``.

        Args:
            groups: [num_items] int64, open groups.
            sequences: [num_items] int64, any ids; a new one starts an empty response.
            offsets: [num_items] int64, 0 to the response's length.
            tokens: [sum of lengths] int32.
            lengths: [num_items] int64.

        Raises:
            ValueError: a group is not open, an offset leaves a gap, a token id is out of range, or
                sizes disagree; the message names the field and the element.
            TypeError: an argument is not an array of integers.
        """
        self._index.append(
            _integers("groups", groups, np.int64),
            _integers("sequences", sequences, np.int64),
            _integers("offsets", offsets, np.int64),
            _integers("tokens", tokens, np.int32),
            _integers("lengths", lengths, np.int64),
        )

    def propose(
        self,
        groups: ArrayLike,
        sequences: ArrayLike,
        budgets: ArrayLike,
        max_depth: int = 16,
        *,
        chain: bool = False,
    ) -> Proposal:
        """Draft one tree for each request. Counts as one step.

        Nodes are taken best first, so the tree of budget k is contained in that of budget k + 1, and
        a node is never more probable than its parent. A sequence without tokens continues the prompt.

        Args:
            groups: [num_requests] int64, open groups.
            sequences: [num_requests] int64.
            budgets: [num_requests] int32, the most nodes of each tree, 0 to ``MAX_BUDGET``.
            max_depth: depth of the deepest node, 1 to ``MAX_DEPTH``.
            chain: give every node at most one child, for engines that verify no trees.

        Raises:
            ValueError: a group is not open, a budget or the depth is out of range, or sizes disagree;
                the message names the field and the element.
            TypeError: an argument is not an array of integers.
        """
        return Proposal(
            *self._index.propose(
                _integers("groups", groups, np.int64),
                _integers("sequences", sequences, np.int64),
                _integers("budgets", budgets, np.int32),
                max_depth,
                chain,
            )
        )

    def observe(self, proposal: Proposal, accepted: ArrayLike) -> None:
        """Learn from what became of a proposal: later probabilities are calibrated by it.

        Args:
            proposal: what was verified, a proposal or what ``Proposal.select`` left of one.
            accepted: [num_nodes] bool, whether the node's token, and with it its path, was accepted.

        Raises:
            ValueError: sizes disagree, or the proposal is not one of this version of the index.
        """
        self._index.observe(
            _integers("evidence", proposal.evidence, np.int64),
            _integers("parents", proposal.parents, np.int32),
            _integers("starts", proposal.starts, np.int64),
            np.ascontiguousarray(accepted, dtype=np.bool_),
        )

    def drop_sequence(self, group: int, sequence: int) -> None:
        """Forget a sequence's response. Nothing happens if there is none."""
        self._index.drop_sequence(group, sequence)

    def drop_group(self, group: int) -> None:
        """Forget a group with its prompt and responses. Nothing happens if it is not open."""
        self._index.drop_group(group)

    def drop_version(self, version: int) -> None:
        """Forget all groups that were opened with a version of the weights.

        Counts of what followed one or two tokens anywhere stay; ``clear`` forgets those, too.
        """
        self._index.drop_version(version)

    def clear(self) -> None:
        """Forget all groups."""
        self._index.clear()

    def __contains__(self, group: int) -> bool:
        """Whether the group is open; one may be closed by ``ttl_steps`` or by a limit."""
        known: bool = self._index.has_group(group)
        return known

    def length(self, group: int, sequence: int) -> int:
        """Tokens of a response, evicted ones included; 0 for an unknown sequence.

        Raises:
            ValueError: the group is not open.
        """
        length: int = self._index.length(group, sequence)
        return length

    @property
    def num_groups(self) -> int:
        """Open groups."""
        count: int = self._index.num_groups()
        return count

    @property
    def num_tokens(self) -> int:
        """Tokens stored, each prompt counted once."""
        count: int = self._index.num_tokens()
        return count

    @property
    def memory_bytes(self) -> int:
        """Memory held, in bytes; that of dropped groups is kept for later tokens."""
        count: int = self._index.memory_bytes()
        return count

    @property
    def counters(self) -> dict[str, int]:
        """What was lost at limits: evicted_tokens, evicted_groups, expired_groups, refused_tokens, lost_heads."""
        counted: dict[str, int] = self._index.counters()
        return counted


def _integers(field: str, values: ArrayLike, dtype: type[np.signedinteger[Any]]) -> NDArray[Any]:
    """The values as a contiguous array of the dtype, without ever wrapping a value around."""
    array = np.asarray(values)
    if array.dtype != dtype:
        if array.size == 0:
            array = array.astype(dtype)
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"{field} has dtype {array.dtype}, wanted integers")
        limits = np.iinfo(dtype)
        if array.size > 0 and not limits.min <= array.min() <= array.max() <= limits.max:
            raise ValueError(
                f"{field} has values from {array.min()} to {array.max()}, wanted values that fit {limits.dtype}"
            )
    return np.ascontiguousarray(array, dtype=dtype)
