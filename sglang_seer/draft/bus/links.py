"""The conversation of two engines without its sockets: who wants what, what was lost, what is sent again.

A reader opens one link to every other engine. It says which groups it wants (`Interest`), gets `Text` frames that are
numbered on this link, and asks every so often how far the numbers are (`Beat`). A number that is missing, a writer
that does not know the reader, or one that started anew are all mended in one way: the reader states its whole interest
again, with the offsets that it has, and gets the rest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sglang_seer.draft.bus.deltas import Deltas
from sglang_seer.draft.bus.history import History
from sglang_seer.draft.bus.protocol import Known, Traffic
from sglang_seer.draft.bus.wire import (
    BadFrame,
    Beat,
    Frame,
    Interest,
    age_ms,
    pack,
    stamp_ms,
    text_deltas,
    text_frames,
    unpack,
)

BEAT_S = 0.5
# A writer that hears nothing of a reader for so long forgets it.
SILENCE_S = 10.0
# Groups and requests that one Interest names, at most 15 bytes each; a group of more requests is a message of its own.
MOST_ENTRIES = 32_768
Address = bytes


@dataclass(slots=True)
class Reader:
    """Another engine that reads from this one."""

    version: int
    heard_s: float
    interest: int = 0
    number: int = 0
    groups: set[int] = field(default_factory=set)


class Writer:
    """The writing end of all links to this engine's text. Calls return (address, message) to be sent."""

    def __init__(self, sender: int, version: int, history: History, traffic: Traffic) -> None:
        self._sender = sender
        self._version = version
        self._history = history
        self._traffic = traffic
        self._readers: dict[Address, Reader] = {}

    def publish(self, new: Deltas, now_s: float) -> list[tuple[Address, bytes]]:
        """Keep own text and send it to those who want it."""
        self._history.append(new, now_s)
        out: list[tuple[Address, bytes]] = []
        for address, reader in list(self._readers.items()):
            if now_s - reader.heard_s > SILENCE_S:
                del self._readers[address]
                continue
            wanted = np.isin(new.groups, list(reader.groups)) if reader.groups else np.zeros(len(new), np.bool_)
            if wanted.any() and reader.version == self._version:
                out += self._texts(address, reader, new.select(wanted))
        return out

    def on_message(self, address: Address, data: bytes, now_s: float) -> list[tuple[Address, bytes]]:
        """Answer a reader."""
        frame = _unpacked(data, self._traffic)
        if isinstance(frame, Interest):
            return self._on_interest(address, frame, now_s)
        if isinstance(frame, Beat):
            reader = self._readers.get(address)
            if reader is not None:
                reader.heard_s = now_s
            seen = (reader.number, reader.interest) if reader else (0, 0)
            return [(address, pack(Beat(self._version, self._sender, *seen)))]
        if frame is not None:
            self._traffic.dropped["foreign"] += 1
        return []

    def drop_version(self, version: int) -> None:
        """Own text starts anew, with this version."""
        self._version = version
        self._history.clear()

    @property
    def num_readers(self) -> int:
        """Engines that read from this one."""
        return len(self._readers)

    def _on_interest(self, address: Address, frame: Interest, now_s: float) -> list[tuple[Address, bytes]]:
        reader = self._readers.get(address)
        if frame.whole:
            # A restatement may be overtaken by a newer one.
            if reader is not None and frame.number < reader.interest:
                return []
            number = reader.number if reader else 0
            reader = self._readers[address] = Reader(frame.version, now_s, frame.number, number)
        elif reader is None or frame.number != reader.interest + 1 or frame.version != reader.version:
            # Something before it was lost; the next beat tells the reader.
            return []
        reader.heard_s, reader.interest = now_s, frame.number
        reader.groups |= {group for group, _ in frame.wanted}
        reader.groups -= set(frame.unwanted)
        if reader.version != self._version:
            return []
        return self._texts(address, reader, self._history.since_all(dict(frame.wanted)))

    def _texts(self, address: Address, reader: Reader, new: Deltas) -> list[tuple[Address, bytes]]:
        out = []
        made = stamp_ms(time.time())
        for text in text_frames(self._version, self._sender, new, first=reader.number + 1, stamp_ms=made):
            reader.number = text.number
            data = pack(text)
            out.append((address, data))
            self._traffic.sent_bytes += len(data)
        self._traffic.sent_tokens += len(new.tokens)
        return out


class Link:
    """The reading end of one link. Messages to be sent gather in `outgoing`."""

    def __init__(self, sender: int, version: int, known: Known, traffic: Traffic) -> None:
        """sender: this engine. known: of a group, what was delivered."""
        self._sender = sender
        self._version = version
        self._known = known
        self._traffic = traffic
        self._groups: dict[int, None] = {}
        self._interest = self._interest_at_beat = 0
        self._received = 0
        self._behind = True
        self._beat_s = self._restated_s = -float("inf")
        self.outgoing: list[bytes] = []

    def subscribe(self, groups: Sequence[int]) -> None:
        new = [group for group in groups if group not in self._groups]
        self._groups.update(dict.fromkeys(new))
        if new and not self._behind:
            self._state(wanted=new, unwanted=[])

    def unsubscribe(self, groups: Sequence[int]) -> None:
        gone = [group for group in groups if group in self._groups]
        for group in gone:
            del self._groups[group]
        if gone and not self._behind:
            self._state(wanted=[], unwanted=gone)

    def catch_up(self) -> None:
        """Something is missing: state the whole interest again at the next tick."""
        self._behind = True

    def drop_version(self, version: int) -> None:
        self._version = version
        self._behind = True

    def on_message(self, data: bytes, now_s: float) -> Deltas | None:
        """Text of the own version, or None."""
        frame = _unpacked(data, self._traffic)
        if frame is None or isinstance(frame, Interest):
            return None
        if isinstance(frame, Beat):
            # Less than was received: the writer has forgotten this reader, or is another one at the same address.
            if frame.number != self._received or frame.interest < self._interest_at_beat:
                self._behind = True
            self._received = frame.number
            return None
        if frame.number > self._received + 1:
            self._behind = True
        self._received = max(self._received, frame.number)
        self._traffic.received_bytes += len(data)
        if frame.version != self._version:
            self._traffic.dropped["stale"] += 1
            return None
        try:
            new = text_deltas(frame)
        except BadFrame as error:
            self._traffic.drop(error)
            return None
        self._traffic.arrived(len(new.tokens), age_ms(frame.stamp_ms, time.time()))
        return new

    def tick(self, now_s: float) -> None:
        """Beat, and mend what is behind, at most a few times a second."""
        if self._behind and now_s - self._restated_s > BEAT_S / 2:
            if self._received:
                self._traffic.repairs += 1
            self._behind = False
            self._restated_s = now_s
            self._state(wanted=list(self._groups), unwanted=[], whole=True)
        if now_s - self._beat_s >= BEAT_S:
            self._beat_s, self._interest_at_beat = now_s, self._interest
            self.outgoing.append(pack(Beat(self._version, self._sender, self._received, self._interest)))

    def _state(self, wanted: list[int], unwanted: list[int], *, whole: bool = False) -> None:
        """Say what is wanted, in messages that no limit on size drops."""
        offsets: list[tuple[int, dict[int, int]]] = []
        entries = 0
        for group in wanted:
            known = dict(self._known(group))
            if offsets and entries + len(known) > MOST_ENTRIES:
                self._say(offsets, [], whole=whole)
                offsets, entries, whole = [], 0, False
            offsets.append((group, known))
            entries += 1 + len(known)
        self._say(offsets, unwanted[:MOST_ENTRIES], whole=whole)
        for start in range(MOST_ENTRIES, len(unwanted), MOST_ENTRIES):
            self._say([], unwanted[start : start + MOST_ENTRIES], whole=False)

    def _say(self, wanted: list[tuple[int, dict[int, int]]], unwanted: list[int], *, whole: bool) -> None:
        self._interest += 1
        frame = Interest(self._version, self._sender, self._interest, whole, wanted, unwanted)
        self.outgoing.append(pack(frame))


def _unpacked(data: bytes, traffic: Traffic) -> Frame | None:
    try:
        return unpack(data)
    except BadFrame as error:
        traffic.drop(error)
        return None
