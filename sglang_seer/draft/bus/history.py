"""What this engine has written itself, kept for engines that come late or lost something."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from sglang_seer.draft.bus.deltas import Deltas, Item, concatenate, stacked


@dataclass(slots=True)
class Response:
    """base: offset of the first token that is kept; text before it was lost on the way here."""

    base: int
    tokens: array[int] = field(default_factory=lambda: array("i"))
    finished: bool = False

    @property
    def end(self) -> int:
        return self.base + len(self.tokens)


# New text is kept as it came until it is so much or so old: longer pieces of a response cost as much as short ones.
MOST_UNSETTLED_TOKENS = 1 << 16
UNSETTLED_S = 1.0


class History:
    """Own responses by group, bounded in tokens and in age: the group untouched for longest goes first."""

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._unsettled: list[Deltas] = []
        self._unsettled_tokens = 0
        self._first_s = self._last_s = 0.0  # when the first and last unsettled text came
        self._groups: OrderedDict[int, dict[int, Response]] = OrderedDict()
        self._touched_s: dict[int, float] = {}
        self._settled_tokens = 0
        self.evicted_tokens = 0

    def append(self, new: Deltas, now_s: float) -> None:
        """Take own text in. What is known is ignored; a gap means that what came before it was dropped."""
        if not self._unsettled:
            self._first_s = now_s
        self._unsettled.append(new)
        self._last_s = now_s
        self._unsettled_tokens += len(new.tokens)
        if self._unsettled_tokens >= min(MOST_UNSETTLED_TOKENS, self._most_tokens // 16):
            self._settle()

    @property
    def num_tokens(self) -> int:
        """Tokens that are kept."""
        return self._settled_tokens + self._unsettled_tokens

    def _settle(self) -> None:
        """Sort new text into responses."""
        if not self._unsettled:
            return
        new = concatenate(self._unsettled).merged()
        self._unsettled.clear()
        self._unsettled_tokens = 0
        pieces = new.pieces()
        columns = (new.groups.tolist(), new.requests.tolist(), new.offsets.tolist(), new.finished.tolist())
        for group, request, offset, finished, piece in zip(*columns, pieces, strict=True):
            responses = self._groups.setdefault(group, {})
            response = responses.get(request)
            if response is None or response.end < offset:
                if response is not None:
                    self._settled_tokens -= len(response.tokens)
                response = responses[request] = Response(offset)
            fresh = piece[response.end - offset :]
            response.tokens.frombytes(fresh.tobytes())
            self._settled_tokens += len(fresh)
            if finished:
                response.finished = True
                # What was sent behind the end is no part of the response.
                behind = response.tokens[max(offset + len(piece) - response.base, 0) :]
                del response.tokens[len(response.tokens) - len(behind) :]
                self._settled_tokens -= len(behind)
        for group in dict.fromkeys(columns[0]):
            self._groups.move_to_end(group)
            self._touched_s[group] = self._last_s
        while self._settled_tokens > self._most_tokens and len(self._groups) > 1:
            self.evicted_tokens += self.drop_group(next(iter(self._groups)))

    def since(self, group: int, known: Mapping[int, int]) -> Deltas:
        """The group's responses from the given offsets on; a request that is not named from its start."""
        self._settle()
        items: list[Item] = []
        for request, response in self._groups.get(group, {}).items():
            have = max(known.get(request, 0), response.base)
            piece = response.tokens[have - response.base :]
            if piece or response.finished:
                tokens = np.frombuffer(piece, dtype=np.int32)
                items.append((group, request, min(have, response.end), tokens, response.finished))
        return stacked(items)

    def since_all(self, known: Mapping[int, Mapping[int, int]]) -> Deltas:
        """`since` of several groups, in order."""
        return concatenate([part for group in sorted(known) if len(part := self.since(group, known[group]))])

    def ends(self, group: int) -> dict[int, int]:
        """Length of each response of the group."""
        self._settle()
        return {request: response.end for request, response in self._groups.get(group, {}).items()}

    @property
    def groups(self) -> Iterable[int]:
        """Groups with own text."""
        self._settle()
        return self._groups.keys()

    def drop_group(self, group: int) -> int:
        """Forget a group; returns how many tokens that were."""
        self._settle()
        responses = self._groups.pop(group, {})
        self._touched_s.pop(group, None)
        dropped = sum(len(response.tokens) for response in responses.values())
        self._settled_tokens -= dropped
        return dropped

    def expire(self, now_s: float, ttl_s: float) -> None:
        """Forget groups that got no text for so long."""
        before_s = now_s - ttl_s
        # New text may belong to the oldest group.
        oldest = self._groups and self._touched_s[next(iter(self._groups))] < before_s
        if oldest or now_s - self._first_s > UNSETTLED_S:
            self._settle()
        while self._groups and self._touched_s[next(iter(self._groups))] < before_s:
            self.drop_group(next(iter(self._groups)))

    def clear(self) -> None:
        """Forget everything: the weights changed."""
        self._groups.clear()
        self._touched_s.clear()
        self._unsettled.clear()
        self._settled_tokens = self._unsettled_tokens = 0
