"""Siblings on other engines: what an engine's draft source gives to the token bus, and what it takes from it.

Only the drafting rank has a bus. A thread of the bus sends and fetches; what arrived is taken at the start of a step,
and another thread appends it to the index while the model runs. Finished lengths go from here to all ranks
(`ranks.share_trees`), because they order queues.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from sglang_seer.config import SeerConfig
from sglang_seer.context import request_key
from sglang_seer.draft import SuffixIndex
from sglang_seer.draft.bus import Deltas, SharedText, deltas, share_text
from sglang_seer.draft.bus.deltas import NOTHING, concatenate
from sglang_seer.engine.requests import RequestState, RequestStates
from sglang_seer.status import STATUS

# Taken at one step, so that a burst does not stretch it: the index makes so much findable in a call.
MOST_TOKENS = 4096
# Finished lengths that one step's broadcast has room for.
MOST_LENGTHS = 32
# Steps between two looks for groups that nobody asks for any more.
SWEEP_STEPS = 64
_MOST_COUNTED = 65_536

Lengths = npt.NDArray[np.int64]
"""[num_lengths, 2] int64: group (`RequestState.index_group`) and tokens of a response that ended elsewhere."""
NO_LENGTHS: Lengths = np.zeros((0, 2), dtype=np.int64)


def text_version(weight_version: object, vocab_size: int) -> int:
    """Number of the weights on the bus: engines that say the same share text."""
    return request_key(f"{weight_version}/{vocab_size}")


def join_bus(config: SeerConfig, version: int, vocab_size: int) -> SharedText | None:
    """The bus of the config; None if there is nobody to share with. Raises BusError if it is needed and not there."""
    if config.shares:
        return share_text(config.bus, version=version, vocab_size=vocab_size, required=config.bus_required)
    return None


def _sequence(number: Any) -> Any:
    """Of text from elsewhere, in the index; own responses count up from one."""
    return -1 - number


class Sharing:
    """Moves text between the bus and the index, for the groups that requests here belong to."""

    def __init__(self, bus: SharedText, index: SuffixIndex, states: RequestStates, version: int) -> None:
        self._bus = bus
        self._index = index
        self._states = states
        self._version = version
        self._steps = 0
        self._followed: dict[int, int] = {}  # group of the requests -> group of the index
        self._counted: OrderedDict[int, set[int]] = OrderedDict()
        self._lengths: deque[tuple[int, int]] = deque()
        self._in_hand = NOTHING
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="seer-index")
        self._writing: Future[None] | None = None
        STATUS.sources["bus"] = bus.status

    def follow(self, state: RequestState, opened: int) -> None:
        """A request enters its group, which is open in the index: fetch the group from its start, if it is not."""
        # What another engine wrote of this very response comes with the request.
        self._index.drop_sequence(opened, _sequence(state.number))
        if state.index_group not in self._followed:
            self._followed[state.index_group] = opened
            self._bus.subscribe([state.index_group])

    def publish(self, states: Sequence[RequestState], offsets: Sequence[int], pieces: Sequence[Any]) -> None:
        """New text of own responses, [new tokens] int32 each."""
        self._bus.publish(
            deltas(
                [state.index_group for state in states],
                [state.number for state in states],
                offsets,
                [len(piece) for piece in pieces],
                np.concatenate(pieces),
            )
        )

    def finish(self, state: RequestState, length: int) -> None:
        """An own response has ended, with so many tokens in all."""
        self._bus.publish(deltas([state.index_group], [state.number], [length], [0], (), [True]))

    def receive(self, version: int) -> None:
        """Take what has arrived; called at the start of a step. version: of the weights now."""
        if version != self._version:
            # Without a flush: requests run on, and so does what they have in the index.
            self._version = version
            self._bus.drop_version(version)
        self._steps += 1
        if self._steps % SWEEP_STEPS == 0:
            self._leave(group for group in self._followed if not self._states.live(group))
        arrived = self._bus.take(MOST_TOKENS)
        for group, number, length in arrived.finished:
            self._count(group, number, length)
        if len(arrived.text):
            self._in_hand = concatenate([self._in_hand, arrived.text]) if len(self._in_hand) else arrived.text

    def absorb(self) -> None:
        """Begin to append what was taken to the index: the next step drafts from it.

        Called once the trees of a step are made, so that the index works while the model does.
        """
        if len(self._in_hand):
            text, self._in_hand = self._in_hand, NOTHING
            self._take_in(text)

    def settle(self) -> None:
        """Wait until the index has what `absorb` was called for: much less than a step.

        Before anything that such an append must not come after: it may close other groups, and text of a response that
        has moved here would count as a sibling's.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _take_in(self, text: Deltas) -> None:
        """Append text from elsewhere to the index; what is written here as well is left out."""
        owns = self._states.owns
        kept = np.fromiter(
            (
                group in self._followed and not owns(group, number)
                for group, number in zip(text.groups.tolist(), text.requests.tolist(), strict=True)
            ),
            np.bool_,
            len(text),
        )
        text = text.select(kept)
        opened = [self._followed[group] for group in text.groups.tolist()]
        self.settle()
        self._writing = self._writer.submit(self._append, opened, text)

    def _append(self, opened: Sequence[int], text: Deltas) -> None:
        """In the writing thread, which holds the GIL for a few calls: the index works without."""
        try:
            self._index.append(opened, _sequence(text.requests), text.offsets, text.tokens, text.lengths)
        except ValueError:
            self._append_singly(opened, text)

    def lengths(self) -> Lengths:
        """Lengths for all ranks at this step, oldest first."""
        count = min(len(self._lengths), MOST_LENGTHS)
        return np.array([self._lengths.popleft() for _ in range(count)], dtype=np.int64).reshape(-1, 2)

    def restart(self, version: int) -> None:
        """The index was emptied, as after new weights: own text and that of others starts anew."""
        self._version = version
        self.settle()
        self._leave(list(self._followed))
        self._bus.drop_version(version)
        self._counted.clear()
        self._lengths.clear()

    def close_all_but(self, opened: Mapping[int, int]) -> None:
        """The index has closed groups by itself: only these are open."""
        self._leave(group for group in self._followed if group not in opened)

    def _append_singly(self, opened: Sequence[int], text: Deltas) -> None:
        """What one sender got wrong must not keep out the rest."""
        for group, number, offset, piece in zip(
            opened, text.requests.tolist(), text.offsets.tolist(), text.pieces(), strict=True
        ):
            try:
                self._index.append([group], [_sequence(number)], [offset], piece, [len(piece)])
            except ValueError as error:
                STATUS.first("bus_refused", "the index refused text from the token bus: %s", error)

    def _leave(self, groups: Iterable[int]) -> None:
        gone = list(groups)
        self._bus.unsubscribe(gone)
        for group in gone:
            del self._followed[group]
        if gone and len(self._in_hand):
            # It would come once more, from the group's start, if the group came back.
            kept = np.fromiter((one in self._followed for one in self._in_hand.groups.tolist()), np.bool_)
            self._in_hand = self._in_hand.select(kept)

    def _count(self, group: int, number: int, length: int) -> None:
        """Each response's length counts once, however often its group is fetched."""
        counted = self._counted.setdefault(group, set())
        self._counted.move_to_end(group)
        if number not in counted:
            counted.add(number)
            self._lengths.append((group, length))
        for old in list(islice(self._counted, max(len(self._counted) - _MOST_COUNTED, 0))):
            del self._counted[old]
