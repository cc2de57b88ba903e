"""Makes of what arrives, in any order and more than once, text without gaps.

The suffix index takes a response only from its start and without holes. So a piece that comes too early is held back
until what is missing has been asked for again; if that does not come, the text behind the hole goes on as a response
of its own, because drafts from it are worth as much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sglang_seer.draft.bus.deltas import NOTHING, Deltas, Item, stacked

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEGMENT = 1 << 32
"""Request numbers of delivered text are those of the bus plus this for every hole before it."""


@dataclass(slots=True)
class Held:
    """Pieces of one response that came too early, by offset, and since when the hole is there."""

    since_s: float
    pieces: dict[int, tuple[NDArray[np.int32], bool]] = field(default_factory=dict)


@dataclass(slots=True)
class Group:
    """ends: offset by request up to which text was delivered. segments: request -> (number of holes, their end)."""

    ends: dict[int, int] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)
    segments: dict[int, tuple[int, int]] = field(default_factory=dict)
    held: dict[int, Held] = field(default_factory=dict)


class Assembler:
    """Delivered text of the groups that are followed.

    finished: (group, request, length in tokens) of responses that ended, for the caller to take away. dropped: items
    that were not used, by reason. repaired_tokens: what was held back and delivered later.
    """

    def __init__(self, *, vocab_size: int, patience_s: float = 2.0, most_held_tokens: int = 1 << 20) -> None:
        """vocab_size: a message with a token beyond is hostile. patience_s: how long a hole is waited for."""
        self._vocab_size = vocab_size
        self._patience_s = patience_s
        self._most_held_tokens = most_held_tokens
        self._held_tokens = 0
        self._groups: dict[int, Group] = {}
        self.finished: list[tuple[int, int, int]] = []
        self.dropped: Counter[str] = Counter()
        self.repaired_tokens = 0
        self.skipped_holes = 0

    def follow(self, group: int) -> None:
        """Start a group from nothing; nothing happens if it is followed."""
        self._groups.setdefault(group, Group())

    def forget(self, group: int) -> None:
        """Follow a group no more."""
        gone = self._groups.pop(group, None)
        if gone is not None:
            self._held_tokens -= sum(len(piece) for held in gone.held.values() for piece, _ in held.pieces.values())

    def restart(self) -> None:
        """Forget the text of all groups and follow them from nothing: the weights changed."""
        self._groups = {group: Group() for group in self._groups}
        self._held_tokens = 0

    def __contains__(self, group: int) -> bool:
        """Whether the group is followed."""
        return group in self._groups

    @property
    def groups(self) -> list[int]:
        """Groups that are followed."""
        return list(self._groups)

    def known(self, group: int) -> Mapping[int, int]:
        """Offset by request up to which the group's text has been delivered."""
        return self._groups[group].ends

    def incomplete(self) -> list[int]:
        """Groups with a hole."""
        return [number for number, group in self._groups.items() if group.held]

    def add(self, new: Deltas, now_s: float) -> Deltas:
        """What of it is new and has no hole before it. The group of an item that is not followed is foreign."""
        if len(new.tokens) and not 0 <= int(new.tokens.min()) <= int(new.tokens.max()) < self._vocab_size:
            self.dropped["hostile"] += len(new)
            return NOTHING
        groups = new.groups.tolist()
        followed = np.fromiter((group in self._groups for group in groups), np.bool_, len(groups))
        if not followed.all():
            self.dropped["foreign"] += int((~followed).sum())
            new = new.select(followed)
            groups = new.groups.tolist()
        if not groups:
            return NOTHING
        requests = new.requests.tolist()
        known = [self._groups[group].ends.get(request, 0) for group, request in zip(groups, requests, strict=True)]
        # Nearly always: one piece a response, each the next. Columns stay columns then.
        if (
            known == new.offsets.tolist()
            and new.lengths.all()
            and not new.finished.any()
            and len(set(zip(groups, requests, strict=True))) == len(groups)
            and not any(self._groups[group].held or self._groups[group].segments for group in set(groups))
        ):
            for group, request, end in zip(groups, requests, new.ends.tolist(), strict=True):
                self._groups[group].ends[request] = end
            return new
        out: list[Item] = []
        for group, request, offset, finished, piece in zip(
            groups, requests, new.offsets.tolist(), new.finished.tolist(), new.pieces(), strict=True
        ):
            self._take(out, group, request, offset, piece, finished, now_s)
        return stacked(out)

    def give_up(self, now_s: float) -> Deltas:
        """Text behind holes that were waited for long enough, or of which there is too much."""
        out: list[Item] = []
        for number, group in self._groups.items():
            for request, held in list(group.held.items()):
                if now_s - held.since_s < self._patience_s and self._held_tokens <= self._most_held_tokens:
                    continue
                self.skipped_holes += 1
                first = min(held.pieces)
                group.segments[request] = (group.segments.get(request, (0, 0))[0] + 1, first)
                group.ends[request] = first
                self._drain(out, number, request)
        return stacked(out)

    def skip(self, lost: Deltas) -> None:
        """Delivered text got lost behind this: what follows it goes on as responses of their own."""
        for number, delivered in set(zip(lost.groups.tolist(), lost.requests.tolist(), strict=True)):
            group, request = self._groups.get(number), delivered % SEGMENT
            if group is not None and request in group.ends:
                group.segments[request] = (group.segments.get(request, (0, 0))[0] + 1, group.ends[request])

    def _take(
        self,
        out: list[Item],
        number: int,
        request: int,
        offset: int,
        piece: NDArray[np.int32],
        finished: bool,
        now_s: float,
    ) -> None:
        group = self._groups[number]
        end = group.ends.get(request, 0)
        if offset > end:
            held = group.held.setdefault(request, Held(now_s))
            before = held.pieces.get(offset)
            if before is None or len(piece) > len(before[0]) or finished > before[1]:
                self._held_tokens += len(piece) - (0 if before is None else len(before[0]))
                held.pieces[offset] = (piece, finished)
            else:
                self.dropped["duplicate"] += 1
            return
        self._extend(out, number, request, offset, piece, finished)
        if request in group.held:
            self._drain(out, number, request)

    def _extend(
        self, out: list[Item], number: int, request: int, offset: int, piece: NDArray[np.int32], finished: bool
    ) -> None:
        group = self._groups[number]
        end = group.ends.get(request, 0)
        fresh = piece[end - offset :]
        # A response has one end. Text may reach behind it: an engine sends tokens before it sees that they stop.
        news = finished and request not in group.finished
        if not len(fresh) and not news:
            self.dropped["duplicate"] += 1
            return
        if len(fresh):
            segment, base = group.segments.get(request, (0, 0))
            out.append((number, request + SEGMENT * segment, end - base, fresh, False))
            group.ends[request] = end + len(fresh)
        if news:
            group.finished.add(request)
            self.finished.append((number, request, offset + len(piece)))

    def _drain(self, out: list[Item], number: int, request: int) -> None:
        """Deliver what was held back and has no hole before it now."""
        group = self._groups[number]
        held = group.held[request]
        while held.pieces:
            offset = min(held.pieces)
            if offset > group.ends.get(request, 0):
                return
            piece, finished = held.pieces.pop(offset)
            self._held_tokens -= len(piece)
            self.repaired_tokens += len(piece)
            self._extend(out, number, request, offset, piece, finished)
        del group.held[request]
