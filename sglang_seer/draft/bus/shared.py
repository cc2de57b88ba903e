"""What an engine sees of the bus: hand over own text, take the text of siblings elsewhere, never wait.

A background thread does everything else. On a tensor-parallel engine rank 0 has one; `take` is called at a step's
boundary, and what other ranks must know of it is broadcast by the engine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sglang_seer.draft.bus.assembly import Assembler
from sglang_seer.draft.bus.deltas import NOTHING, Deltas, concatenate
from sglang_seer.draft.bus.protocol import Known, TokenBus

logger = logging.getLogger("sglang_seer")


@dataclass(frozen=True, slots=True)
class Pace:
    """How much waits where, and for how long.

    flush_s: own text gathers so long before it is sent. flush_tokens: or until it is so much. wait_s: most time that
    the thread sleeps. most_queued_tokens: own text that waits for the thread, the oldest is dropped beyond; and arrived
    text that waits for `take`, all of it is dropped beyond. patience_s: how long a hole in a text is waited for.
    """

    flush_s: float = 0.05
    flush_tokens: int = 16_384
    wait_s: float = 0.02
    most_queued_tokens: int = 4 << 20
    patience_s: float = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Arrived:
    """text: new pieces, each response from its start and without holes; groups are subscribed ones.

    finished: (group, request, length in tokens) of responses that ended elsewhere.
    """

    text: Deltas = NOTHING
    finished: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Parcel:
    """order: how many of the caller's orders the thread had carried out when it made this."""

    order: int
    arrived: Arrived


OpenBus = Callable[[Known], TokenBus]


class SharedText:
    """Text shared with other engines. All methods return at once."""

    def __init__(self, open_bus: OpenBus, *, vocab_size: int, pace: Pace | None = None) -> None:
        """Open the bus and start the thread. Raises BusError if the bus cannot be opened."""
        self._pace = pace or Pace()
        self._assembler = Assembler(vocab_size=vocab_size, patience_s=self._pace.patience_s)
        self._bus = open_bus(self._assembler.known)
        self._outbox: deque[tuple[float, Deltas]] = deque()
        self._outbox_tokens = 0
        self._orders: deque[Callable[[], None]] = deque()
        self._given = self._carried_out = 0
        # Number of the order with which a group was left, as long as older text of it may be under way.
        self._left: dict[int, int] = {}
        self._restarted = 0
        self._inbox: deque[_Parcel] = deque()
        self._inbox_tokens = 0
        # Guards the two queues; held for a few instructions.
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self.dropped_out_tokens = self.dropped_in_tokens = 0
        self._catching_up: dict[int, float] = {}
        self._catch_up_ms = self._flush_lag_ms = 0.0
        self._failure: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seer-bus", daemon=True)
        self._thread.start()

    def publish(self, new: Deltas) -> None:
        """Own text, each piece once. It is sent within `flush_s`; the oldest is dropped where too much waits."""
        if not len(new) or self._failure:
            return
        with self._lock:
            self._outbox.append((time.monotonic(), new))
            self._outbox_tokens += len(new.tokens)
            while self._outbox_tokens > self._pace.most_queued_tokens and len(self._outbox) > 1:
                lost = len(self._outbox.popleft()[1].tokens)
                self._outbox_tokens -= lost
                self.dropped_out_tokens += lost

    def subscribe(self, groups: Sequence[int]) -> None:
        """Requests of these groups are served here: fetch them from their start. Nothing happens if they are."""
        new = [group for group in groups if group not in self._groups]
        if new:
            self._groups.update(new)
            self._order(lambda: self._start(new))

    def unsubscribe(self, groups: Sequence[int]) -> None:
        """These groups are not served here any more. Own text of them is kept for others."""
        gone = [group for group in groups if group in self._groups]
        if gone:
            self._groups.difference_update(gone)
            self._order(lambda: self._stop(gone))
            self._left.update(dict.fromkeys(gone, self._given))

    def drop_version(self, version: int) -> None:
        """The weights changed: only text of this version counts from now on. Subscriptions stay."""
        with self._lock:
            self._outbox.clear()
            self._outbox_tokens = 0
        self._order(lambda: self._restart(version))
        self._restarted = self._given

    def take(self, most_tokens: int = 8192) -> Arrived:
        """What has arrived, oldest first: one item if there is any, and more up to so many tokens."""
        text: list[Deltas] = []
        finished: list[tuple[int, int, int]] = []
        taken = 0
        carried_out = self._carried_out
        if self._left and not self._inbox:
            # Older text would be in the queue by now.
            self._left = {group: order for group, order in self._left.items() if order > carried_out}
        while self._inbox and taken < most_tokens:
            with self._lock:
                if not self._inbox:
                    break
                parcel = self._inbox.popleft()
                whole = parcel.arrived.text
                if taken and len(whole) and taken + whole.lengths[0] > most_tokens:
                    self._inbox.appendleft(parcel)
                    break
                if taken + len(whole.tokens) > most_tokens and len(whole) > 1:
                    part, rest = whole.split(most_tokens - taken, len(whole) - 1)
                    self._inbox.appendleft(replace(parcel, arrived=Arrived(rest, parcel.arrived.finished)))
                    parcel = replace(parcel, arrived=Arrived(part))
                self._inbox_tokens -= len(parcel.arrived.text.tokens)
            taken += len(parcel.arrived.text.tokens)
            arrived = self._still_wanted(parcel)
            text.append(arrived.text)
            finished += arrived.finished
        return Arrived(concatenate([part for part in text if len(part)]), tuple(finished))

    def status(self) -> dict[str, Any]:
        """Counters; plain types only. Lags are of the newest flush and the newest catch-up."""
        return {
            "state": self._failure or "running",
            "groups": len(self._groups),
            "queued_out_tokens": self._outbox_tokens,
            "queued_in_tokens": self._inbox_tokens,
            "dropped_out_tokens": self.dropped_out_tokens,
            "dropped_in_tokens": self.dropped_in_tokens,
            "dropped_items": dict(self._assembler.dropped),
            "repaired_tokens": self._assembler.repaired_tokens,
            "skipped_holes": self._assembler.skipped_holes,
            "flush_lag_ms": round(self._flush_lag_ms, 3),
            "catch_up_ms": round(self._catch_up_ms, 3),
            **self._bus.status(),
        }

    def close(self) -> None:
        """Send what is waiting, if that takes no long time, and stop."""
        self._stopping.set()
        self._thread.join(timeout=5.0)

    def _order(self, order: Callable[[], None]) -> None:
        self._given += 1
        self._orders.append(order)

    def _still_wanted(self, parcel: _Parcel) -> Arrived:
        """A parcel without what was left or outdated while it was under way."""
        if parcel.order < self._restarted:
            return Arrived()
        for group in [group for group, order in self._left.items() if order <= parcel.order]:
            del self._left[group]
        if not self._left:
            return parcel.arrived
        text = parcel.arrived.text
        kept = np.fromiter((group not in self._left for group in text.groups.tolist()), np.bool_, len(text))
        finished = tuple(one for one in parcel.arrived.finished if one[0] not in self._left)
        return Arrived(text.select(kept) if len(text) else text, finished)

    # From here on: the thread.

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn(self._pace.wait_s)
            self._flush(time.monotonic(), everything=True)
            self._bus.exchange(0.0)
        except Exception as error:  # noqa: BLE001 - whatever it is, decoding goes on without the bus
            self._failure = f"stopped: {type(error).__name__}: {error}"
            logger.warning("seer: the token bus %s; drafting goes on from local text", self._failure)
        finally:
            self._bus.close()

    def _turn(self, wait_s: float) -> None:
        while self._orders:
            self._orders.popleft()()
            self._carried_out += 1
        self._flush(time.monotonic())
        parts = self._bus.exchange(wait_s)
        now_s = time.monotonic()
        delivered = [self._assembler.add(part, now_s) for part in parts]
        holes = self._assembler.incomplete()
        if holes:
            delivered.append(self._assembler.give_up(now_s))
            self._bus.catch_up(holes)
        self._hand_over(concatenate([part for part in delivered if len(part)]), now_s)

    def _hand_over(self, text: Deltas, now_s: float) -> None:
        finished, self._assembler.finished = tuple(self._assembler.finished), []
        if not len(text) and not finished:
            return
        for group in self._catching_up.keys() & set(text.groups.tolist()):
            self._catch_up_ms = (now_s - self._catching_up.pop(group)) * 1e3
        lost: list[Deltas] = []
        with self._lock:
            self._inbox.append(_Parcel(self._carried_out, Arrived(text, finished)))
            self._inbox_tokens += len(text.tokens)
            if self._inbox_tokens > self._pace.most_queued_tokens and len(self._inbox) > 1:
                # Nobody takes it. All of it goes, because later pieces of a response need the earlier ones.
                lost = [parcel.arrived.text for parcel in self._inbox]
                self._inbox.clear()
                self.dropped_in_tokens += self._inbox_tokens
                self._inbox_tokens = 0
        for part in lost:
            self._assembler.skip(part)

    def _flush(self, now_s: float, *, everything: bool = False) -> None:
        with self._lock:
            if not self._outbox:
                return
            oldest_s = self._outbox[0][0]
            due = now_s - oldest_s >= self._pace.flush_s or self._outbox_tokens >= self._pace.flush_tokens
            if not due and not everything:
                return
            parts = [part for _, part in self._outbox]
            self._outbox.clear()
            self._outbox_tokens = 0
        self._flush_lag_ms = (now_s - oldest_s) * 1e3
        self._bus.publish(concatenate(parts).merged())

    def _start(self, groups: list[int]) -> None:
        now_s = time.monotonic()
        for group in groups:
            self._assembler.follow(group)
            self._catching_up[group] = now_s
        self._bus.subscribe(groups)

    def _stop(self, groups: list[int]) -> None:
        self._bus.unsubscribe(groups)
        for group in groups:
            self._assembler.forget(group)
            self._catching_up.pop(group, None)

    def _restart(self, version: int) -> None:
        self._assembler.restart()
        self._bus.drop_version(version)
