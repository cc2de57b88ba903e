"""The bus inside one process: for one engine, for tests, and as the model of what the others should give."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sglang_seer.draft.bus.deltas import Deltas
from sglang_seer.draft.bus.history import History
from sglang_seer.draft.bus.protocol import Keeping, Known, Traffic

_LOCK = threading.Lock()
_MEMBERS: dict[str, list[InprocBus]] = {}


class InprocBus:
    """See `TokenBus`. Buses of one name in one process share text."""

    def __init__(self, name: str, *, version: int, known: Known, keeping: Keeping) -> None:
        self.traffic = Traffic()
        self._name = name
        self._version = version
        self._known = known
        self._ttl_s = keeping.ttl_s
        self._history = History(keeping.tokens)
        self._groups: set[int] = set()
        self._inbox: list[Deltas] = []
        self._arrived = threading.Event()
        with _LOCK:
            _MEMBERS.setdefault(name, []).append(self)

    def publish(self, new: Deltas) -> None:
        with _LOCK:
            self._history.append(new, time.monotonic())
            self.traffic.sent_tokens += len(new.tokens)
            for other in self._others():
                other._deliver(new.select(_among(new, other._groups)))

    def subscribe(self, groups: Sequence[int]) -> None:
        self.catch_up([group for group in groups if group not in self._groups])

    def unsubscribe(self, groups: Sequence[int]) -> None:
        with _LOCK:
            self._groups -= set(groups)

    def catch_up(self, groups: Sequence[int]) -> None:
        known = {group: self._known(group) for group in groups}
        with _LOCK:
            self._groups |= known.keys()
            for other in self._others():
                self._deliver(other._history.since_all(known))

    def drop_group(self, group: int) -> None:
        with _LOCK:
            self._history.drop_group(group)

    def drop_version(self, version: int) -> None:
        with _LOCK:
            self._version = version
            self._history.clear()
            self._inbox.clear()
        self.catch_up(sorted(self._groups))

    def exchange(self, timeout_s: float) -> list[Deltas]:
        self._arrived.wait(timeout_s)
        with _LOCK:
            self._arrived.clear()
            self._history.expire(time.monotonic(), self._ttl_s)
            arrived, self._inbox = self._inbox, []
        return arrived

    def status(self) -> dict[str, Any]:
        return {"history_tokens": self._history.num_tokens, **self.traffic.as_dict()}

    def close(self) -> None:
        with _LOCK:
            _MEMBERS[self._name].remove(self)

    def _others(self) -> list[InprocBus]:
        return [other for other in _MEMBERS[self._name] if other is not self and other._version == self._version]

    def _deliver(self, new: Deltas) -> None:
        if len(new):
            self.traffic.received_tokens += len(new.tokens)
            self._inbox.append(new)
            self._arrived.set()


def _among(new: Deltas, groups: set[int]) -> npt.NDArray[np.bool_]:
    return np.fromiter((group in groups for group in new.groups.tolist()), np.bool_, len(new))
