"""What travels between engines: new pieces of responses, as columns, because there are thousands a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Int32Array = NDArray[np.int32]
    Int64Array = NDArray[np.int64]
    BoolArray = NDArray[np.bool_]

MOST_REQUESTS = 1 << 32
"""Request numbers on the bus are 0 to this, exclusive."""


@dataclass(frozen=True, slots=True, eq=False)
class Deltas:
    """Item i says: response ``requests[i]`` of ``groups[i]`` has, from ``offsets[i]`` on, ``lengths[i]`` tokens.

    An item may be given twice, and may repeat what an earlier one said: what counts is the offset.
    """

    groups: Int64Array
    """[num_items] int64, the same number on every engine."""
    requests: Int64Array
    """[num_items] int64, below 2**32, unique within a group over all engines; chunks of one response share it."""
    offsets: Int64Array
    """[num_items] int64, counted from the response's first token."""
    lengths: Int64Array
    """[num_items] int64; 0 for an item that only says that a response is finished."""
    finished: BoolArray
    """[num_items] bool: the response ends with this item, by itself or at its limit: its length counts."""
    tokens: Int32Array
    """[sum of lengths] int32."""

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def ends(self) -> Int64Array:
        """[num_items] int64: offset behind the last token."""
        return self.offsets + self.lengths

    def pieces(self) -> list[Int32Array]:
        """Tokens of each item."""
        stops = np.cumsum(self.lengths).tolist()
        return [self.tokens[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)] if stops else []

    def select(self, kept: BoolArray) -> Deltas:
        """The items that are kept; kept: [num_items] bool."""
        if kept.all():
            return self
        return Deltas(
            self.groups[kept],
            self.requests[kept],
            self.offsets[kept],
            self.lengths[kept],
            self.finished[kept],
            self.tokens[np.repeat(kept, self.lengths)],
        )

    def split(self, most_tokens: int, most_items: int) -> tuple[Deltas, Deltas]:
        """The first items, of at most so many tokens together but at least one item, and the rest."""
        count = int(np.searchsorted(np.cumsum(self.lengths), most_tokens, side="right"))
        count = min(max(count, 1), most_items)
        cut = int(self.lengths[:count].sum())
        return self._cut(slice(count), slice(cut)), self._cut(slice(count, None), slice(cut, None))

    def _cut(self, items: slice, tokens: slice) -> Deltas:
        return Deltas(
            self.groups[items],
            self.requests[items],
            self.offsets[items],
            self.lengths[items],
            self.finished[items],
            self.tokens[tokens],
        )

    def merged(self) -> Deltas:
        """The same by group and request, with pieces that continue each other joined."""
        order = np.lexsort((self.offsets, self.requests, self.groups))
        groups, requests, offsets = self.groups[order], self.requests[order], self.offsets[order]
        lengths, finished = self.lengths[order], self.finished[order]
        tokens = _gather(self.tokens, np.cumsum(self.lengths)[order] - lengths, lengths)
        starts = np.ones(len(order), dtype=np.bool_)
        starts[1:] = (
            (groups[1:] != groups[:-1])
            | (requests[1:] != requests[:-1])
            | (offsets[1:] != offsets[:-1] + lengths[:-1])
            | finished[:-1]
        )
        if starts.all():
            return Deltas(groups, requests, offsets, lengths, finished, tokens)
        firsts = np.flatnonzero(starts)
        return Deltas(
            groups[firsts],
            requests[firsts],
            offsets[firsts],
            np.add.reduceat(lengths, firsts),
            np.logical_or.reduceat(finished, firsts),
            tokens,
        )


def _gather(tokens: Int32Array, starts: Int64Array, lengths: Int64Array) -> Int32Array:
    """tokens[starts[i]:starts[i] + lengths[i]] of all i, one behind the other."""
    places = np.arange(int(lengths.sum())) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    gathered: Int32Array = tokens[places]
    return gathered


def deltas(
    groups: ArrayLike,
    requests: ArrayLike,
    offsets: ArrayLike,
    lengths: ArrayLike,
    tokens: ArrayLike,
    finished: ArrayLike | None = None,
) -> Deltas:
    """Deltas from anything array-like. Raises ValueError naming the field that is not as it must be."""
    columns = {
        "groups": np.asarray(groups, dtype=np.int64),
        "requests": np.asarray(requests, dtype=np.int64),
        "offsets": np.asarray(offsets, dtype=np.int64),
        "lengths": np.asarray(lengths, dtype=np.int64),
    }
    count = len(columns["groups"])
    flags = np.zeros(count, np.bool_) if finished is None else np.asarray(finished, dtype=np.bool_)
    made = Deltas(
        columns["groups"],
        columns["requests"],
        columns["offsets"],
        columns["lengths"],
        flags,
        np.asarray(tokens, dtype=np.int32),
    )
    for name, column in (*columns.items(), ("finished", flags)):
        if column.shape != (count,):
            raise ValueError(f"{name} has shape {column.shape}, wanted ({count},), one for each item")
    if count and not 0 <= made.requests.min() <= made.requests.max() < MOST_REQUESTS:
        raise ValueError(f"requests: saw {made.requests.min()} to {made.requests.max()}, wanted 0 to 2**32 - 1")
    for name in ("offsets", "lengths"):
        if count and columns[name].min() < 0:
            raise ValueError(f"{name}: saw {columns[name].min()}, wanted no negative number")
    if made.tokens.min(initial=0) < 0:
        raise ValueError(f"tokens: saw {made.tokens.min()}, wanted no negative number")
    if made.tokens.shape != (int(made.lengths.sum()),):
        raise ValueError(f"tokens has shape {made.tokens.shape}, wanted ({int(made.lengths.sum())},), as lengths say")
    return made


Item = tuple[int, int, int, "Sequence[int] | Int32Array", bool]


def stacked(items: Sequence[Item]) -> Deltas:
    """Deltas from (group, request, offset, tokens, finished), unchecked."""
    if not items:
        return NOTHING
    groups, requests, offsets, pieces, finished = zip(*items, strict=True)
    return Deltas(
        np.array(groups, dtype=np.int64),
        np.array(requests, dtype=np.int64),
        np.array(offsets, dtype=np.int64),
        np.array([len(piece) for piece in pieces], dtype=np.int64),
        np.array(finished, dtype=np.bool_),
        np.concatenate([np.asarray(piece, dtype=np.int32) for piece in pieces]),
    )


def concatenate(parts: Sequence[Deltas]) -> Deltas:
    """All items, in order."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return NOTHING
    return Deltas(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("groups", "requests", "offsets", "lengths", "finished", "tokens")
        )
    )


NOTHING = deltas((), (), (), (), ())
