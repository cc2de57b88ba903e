"""The bus of the engines of one host (or, when asked for, of several): ZeroMQ sockets, no server.

Every engine listens at an address of its own and opens a link to each of the others. With `ipc:///FOLDER` the folder
is where they meet: a socket file for each engine, readable by its user alone, and a lock file that its process holds.
A lock that can be taken belongs to an engine that died, and its files are removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmq

from sglang_seer.draft.bus.address import Address
from sglang_seer.draft.bus.deltas import Deltas
from sglang_seer.draft.bus.history import History
from sglang_seer.draft.bus.links import Link, Writer
from sglang_seer.draft.bus.protocol import BusError, Keeping, Known, Traffic
from sglang_seer.draft.bus.wire import MOST_FRAME_BYTES

logger = logging.getLogger("sglang_seer")

# Messages that may wait for one peer; beyond, they are lost and repaired.
HIGH_WATER = 1000
LOOK_S = 0.5
EXPIRE_S = 1.0
_PRIVATE = 0o700


class ZmqBus:
    """See `TokenBus`."""

    def __init__(self, address: Address, *, version: int, known: Known, keeping: Keeping) -> None:
        """Listen at the address. Raises BusError if that cannot be done.

        known: of a group, what was delivered. keeping: of own text.
        """
        self.traffic = Traffic()
        self._history = History(keeping.tokens)
        self._known = known
        self._version = version
        self._ttl_s = keeping.ttl_s
        self._sender = secrets.randbits(31)
        self._writer = Writer(self._sender, version, self._history, self.traffic)
        self._groups: dict[int, None] = {}
        self._links: dict[str, tuple[Link, zmq.Socket[bytes]]] = {}
        self._looked_s = self._expired_s = -float("inf")
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._meeting = _Meeting(Path(address.place), self._sender) if address.kind == "ipc" else None
        self._fixed_peers = [f"tcp://{peer}" for peer in address.peers]
        self._router = self._context.socket(zmq.ROUTER)
        _limit(self._router)
        try:
            if self._meeting:
                self._meeting.bind(self._router)
            else:
                self._router.bind(f"tcp://{address.place}")
        except (OSError, zmq.ZMQError) as error:
            self.close()
            raise BusError(f"bus: cannot listen at {address.kind}://{address.place}: {error}") from error
        self._poller.register(self._router, zmq.POLLIN)

    def publish(self, new: Deltas) -> None:
        self._reply(self._writer.publish(new, time.monotonic()))

    def subscribe(self, groups: Sequence[int]) -> None:
        self._groups.update(dict.fromkeys(groups))
        for link, _ in self._links.values():
            link.subscribe(groups)

    def unsubscribe(self, groups: Sequence[int]) -> None:
        for group in groups:
            self._groups.pop(group, None)
        for link, _ in self._links.values():
            link.unsubscribe(groups)

    def catch_up(self, groups: Sequence[int]) -> None:
        for link, _ in self._links.values():
            link.catch_up()

    def drop_group(self, group: int) -> None:
        self._history.drop_group(group)

    def drop_version(self, version: int) -> None:
        self._version = version
        self._writer.drop_version(version)
        for link, _ in self._links.values():
            link.drop_version(version)

    def exchange(self, timeout_s: float) -> list[Deltas]:
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._look_for_peers()
        if now_s - self._expired_s >= EXPIRE_S:
            self._expired_s = now_s
            self._history.expire(now_s, self._ttl_s)
        self._speak(now_s)
        arrived: list[Deltas] = []
        ready = dict(self._poller.poll(int(timeout_s * 1e3)))
        now_s = time.monotonic()
        if self._router in ready:
            self._answer(now_s)
        for link, socket in self._links.values():
            if socket in ready:
                for message in _messages(socket):
                    new = link.on_message(message[-1], now_s)
                    if new is not None and len(new):
                        arrived.append(new)
        self._speak(now_s)
        return arrived

    def status(self) -> dict[str, Any]:
        return {
            "peers": len(self._links),
            "readers": self._writer.num_readers,
            "history_tokens": self._history.num_tokens,
            "history_evicted_tokens": self._history.evicted_tokens,
            **self.traffic.as_dict(),
        }

    def close(self) -> None:
        for _, socket in self._links.values():
            socket.close(linger=0)
        self._links.clear()
        self._router.close(linger=0)
        self._context.term()
        if self._meeting:
            self._meeting.leave()

    def _look_for_peers(self) -> None:
        there = set(self._meeting.others() if self._meeting else self._fixed_peers)
        for place in sorted(there - self._links.keys()):
            socket = self._context.socket(zmq.DEALER)
            _limit(socket)
            socket.connect(place)
            self._poller.register(socket, zmq.POLLIN)
            link = Link(self._sender, self._version, self._known, self.traffic)
            link.subscribe(list(self._groups))
            self._links[place] = (link, socket)
        for place in sorted(self._links.keys() - there):
            _, socket = self._links.pop(place)
            self._poller.unregister(socket)
            socket.close(linger=0)

    def _speak(self, now_s: float) -> None:
        for link, socket in self._links.values():
            link.tick(now_s)
            for message in link.outgoing:
                # What does not fit is lost; the next beat finds out.
                with contextlib.suppress(zmq.Again):
                    socket.send(message, zmq.NOBLOCK)
            link.outgoing.clear()

    def _answer(self, now_s: float) -> None:
        for address, *rest in _messages(self._router):
            self._reply(self._writer.on_message(address, rest[-1] if rest else b"", now_s))

    def _reply(self, messages: list[tuple[bytes, bytes]]) -> None:
        for address, data in messages:
            with contextlib.suppress(zmq.Again):
                self._router.send_multipart([address, data], zmq.NOBLOCK)


def _limit(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
    # ZeroMQ closes the connection of a peer that sends more.
    socket.setsockopt(zmq.MAXMSGSIZE, MOST_FRAME_BYTES)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)


def _messages(socket: zmq.Socket[bytes]) -> list[list[bytes]]:
    """Whole messages that are there, a bounded number of them."""
    found = []
    for _ in range(HIGH_WATER):
        try:
            found.append(socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            break
    return found


def _locked(path: Path) -> int:
    """Descriptor of the file, made and locked."""
    while True:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another engine may have taken it for that of a dead one before it was locked.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(lock).st_ino:
                return lock
        os.close(lock)


class _Meeting:
    """The folder where the engines of one host find each other."""

    def __init__(self, folder: Path, sender: int) -> None:
        try:
            folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            found = folder.stat()
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise BusError(
                    f"bus: folder {folder} has owner {found.st_uid} and mode {stat.S_IMODE(found.st_mode):04o}, "
                    f"wanted one of this user ({os.getuid()}) that others cannot enter (mode 0700)"
                )
            self._lock_path = folder / f"{sender:08x}.lock"
            self._lock = _locked(self._lock_path)
        except OSError as error:
            raise BusError(f"bus: folder {folder} cannot be used: {error}") from error
        self._folder = folder
        self._socket = folder / f"{sender:08x}.sock"

    def bind(self, router: zmq.Socket[bytes]) -> None:
        router.bind(f"ipc://{self._socket}")
        self._socket.chmod(0o600)

    def others(self) -> list[str]:
        """Addresses of the other engines that live; files of dead ones are removed."""
        return [f"ipc://{path}" for path in sorted(self._folder.glob("*.sock")) if self._lives(path)]

    def _lives(self, path: Path) -> bool:
        if path == self._socket:
            return False
        lock_path = path.with_suffix(".lock")
        try:
            lock = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            path.unlink(missing_ok=True)
            lock_path.unlink(missing_ok=True)
            return False
        finally:
            os.close(lock)

    def leave(self) -> None:
        self._socket.unlink(missing_ok=True)
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)
