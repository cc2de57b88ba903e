"""Streamed POSTs over HTTP/1.1, with as little work a request as Python allows.

A rollout makes thousands of them a second from one process; the same through aiohttp costs about 220 us each, more than
half of a core at 2,000 a second. Everything else that engines are asked goes through aiohttp.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

from sglang_seer.rollout.timing import KEPT_ALIVE_S, within

MOST_HEAD_BYTES = 65_536
MOST_ERROR_BYTES = 4_096
# More body than that in one frame is no engine's event.
MOST_FRAME_BYTES = 1 << 30

OnData = Callable[[bytes], None]


class WireError(Exception):
    """The connection broke, or what came is no HTTP."""


class StatusError(Exception):
    """The engine answered with a status other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text}")
        self.status = status


class _Connection(asyncio.Protocol):
    """One request at a time; `busy` until its answer is complete."""

    __slots__ = ("_buffer", "_done", "_error_body", "_left", "_on_data", "_state", "_status", "_transport")

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._done: asyncio.Future[None] | None = None
        self._on_data: OnData | None = None
        self._status = 0
        self._state = self._head
        self._left = 0
        self._error_body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    @property
    def usable(self) -> bool:
        """Whether another request may go over it."""
        return self._transport is not None and not self._transport.is_closing() and self._done is None

    def send(self, data: bytes, on_data: OnData) -> asyncio.Future[None]:
        """Sends a request; `on_data` gets what a status 200 brings, frame by frame.

        Raises WireError for a connection that was lost as soon as it was made.
        """
        if self._transport is None:
            raise WireError("the connection was closed before the request was sent")
        self._done = asyncio.get_running_loop().create_future()
        self._on_data, self._state = on_data, self._head
        self._error_body.clear()
        self._transport.write(data)
        return self._done

    def close(self) -> None:
        """Breaks the connection: the engine sees that nobody waits for its answer."""
        self._done = None
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._done is None:
            # An answer that nobody asked for.
            self.close()
            return
        self._buffer += data
        try:
            while self._done is not None and self._state():
                pass
        except ValueError as error:
            self._fail(f"no HTTP answer: {error}")

    def eof_received(self) -> None:
        if self._state == self._until_close:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._fail(f"connection lost: {error}" if error else "the connection was closed before the answer's end")

    def _fail(self, text: str) -> None:
        done, self._done = self._done, None
        if self._transport is not None:
            self._transport.abort()
        if done is not None and not done.done():
            done.set_exception(WireError(text))

    def _finish(self) -> None:
        done, self._done = self._done, None
        if done is None or done.done():
            return
        if self._status == 200:
            done.set_result(None)
        else:
            done.set_exception(StatusError(self._status, self._error_body.decode(errors="replace")))

    def _emit(self, data: bytes) -> None:
        if self._status == 200:
            assert self._on_data is not None
            self._on_data(data)
        else:
            self._error_body += data[: MOST_ERROR_BYTES - len(self._error_body)]

    # Each state takes from the buffer and says whether to go on.

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MOST_HEAD_BYTES:
                raise ValueError(f"head longer than {MOST_HEAD_BYTES} bytes")
            return False
        head = bytes(self._buffer[:end]).lower()
        del self._buffer[: end + 4]
        if not head.startswith(b"http/1.1 "):
            raise ValueError(f"status line {head[:80]!r}")
        self._status = int(head[9:12])
        if b"\r\ntransfer-encoding: chunked" in head:
            self._state = self._frame
        elif (at := head.find(b"\r\ncontent-length:")) >= 0:
            self._left = int(head[at + 17 :].split(b"\r\n", 1)[0])
            self._state = self._length
        else:
            self._state = self._until_close
        return True

    def _frame(self) -> bool:
        line = self._buffer.find(b"\r\n")
        if line < 0:
            if len(self._buffer) > 64:
                raise ValueError("a frame without its size")
            return False
        size = int(self._buffer[:line], 16)
        if not 0 <= size <= MOST_FRAME_BYTES:
            raise ValueError(f"a frame of {size} bytes")
        end = line + 2 + size
        if len(self._buffer) < end + 2:
            return False
        data = bytes(self._buffer[line + 2 : end])
        del self._buffer[: end + 2]
        if size:
            self._emit(data)
        else:
            self._finish()
        return bool(size)

    def _length(self) -> bool:
        data = bytes(self._buffer[: self._left])
        del self._buffer[: len(data)]
        self._left -= len(data)
        if data:
            self._emit(data)
        if not self._left:
            self._finish()
        return False

    def _until_close(self) -> bool:
        if self._buffer:
            self._emit(bytes(self._buffer))
            self._buffer.clear()
        return False


class Wire:
    """Connections to one engine, kept open. base_url: `http://host:port` or https."""

    def __init__(self, base_url: str, *, connect_timeout_s: float) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"engine {base_url!r}: wanted http://HOST:PORT")
        self._tls = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/")
        self._host_line = parts.netloc.rsplit("@", 1)[-1]
        self._connect_timeout_s = connect_timeout_s
        # With the time since when.
        self._idle: list[tuple[_Connection, float]] = []
        self._open: set[_Connection] = set()

    async def post(self, path: str, body: bytes, on_data: OnData) -> None:
        """Sends JSON and hands on what comes, until the answer is complete.

        Raises StatusError for another status than 200, WireError for a connection that breaks, OSError or TimeoutError
        where none can be made. Cancelled, it breaks the connection.
        """
        head = (
            f"POST {self._path}{path} HTTP/1.1\r\nhost: {self._host_line}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        connection = self._kept() or await self._connect()
        try:
            await connection.send(head.encode() + body, on_data)
        finally:
            if connection.usable:
                self._idle.append((connection, asyncio.get_running_loop().time()))
            else:
                connection.close()
                self._open.discard(connection)

    def _kept(self) -> _Connection | None:
        oldest_s = asyncio.get_running_loop().time() - KEPT_ALIVE_S
        while self._idle:
            connection, since_s = self._idle.pop()
            if connection.usable and since_s > oldest_s:
                return connection
            connection.close()
            self._open.discard(connection)
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        making = loop.create_connection(_Connection, self._host, self._port, ssl=self._tls or None)
        _, connection = await within(making, self._connect_timeout_s)
        self._open.add(connection)
        return connection

    def close(self) -> None:
        """Breaks every connection."""
        for connection in self._open:
            connection.close()
        self._open.clear()
        self._idle.clear()
