"""The wire against servers that say what a test tells them to, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sglang_seer.rollout import wire as wire_module
from sglang_seer.rollout.wire import MOST_HEAD_BYTES, StatusError, Wire, WireError, _Connection

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
EVENTS = [b'data: {"text": "\xc3\xa9\xe2\x9d\xa4"}\n\n', b"data: [DONE]\n\n"]
FRAMES = b"".join(b"%X\r\n%b\r\n" % (len(event), event) for event in EVENTS) + b"0\r\n\r\n"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Wire]:
    """A wire to a server that answers so; each request is read to its end before."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                await answer(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    wire = Wire(f"http://{host}:{port}", connect_timeout_s=60.0)
    try:
        yield wire
    finally:
        wire.close()
        server.close()


def saying(data: bytes, *, then_close: bool = False) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if then_close:
            await writer.drain()
            writer.close()

    return answer


async def post(wire: Wire) -> bytes:
    taken: list[bytes] = []
    await asyncio.wait_for(wire.post("/generate", b"{}", taken.append), 60.0)
    return b"".join(taken)


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED + FRAMES,
        HEAD + b"Content-Length: %d\r\n\r\n" % len(b"".join(EVENTS)) + b"".join(EVENTS),
    ],
    ids=["frames", "length"],
)
async def test_answers_over_one_connection(data: bytes) -> None:
    connections = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer.get_extra_info("peername"))
        writer.write(data)

    async with serving(answer) as wire:
        for _ in range(3):
            assert await post(wire) == b"".join(EVENTS)
    assert len(connections) == 1


@pytest.mark.parametrize(("kept_s", "connections"), [(0.1, 2), (600.0, 1)])
async def test_a_connection_that_was_idle_for_long_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch, kept_s: float, connections: int
) -> None:
    """Its engine may be about to close it."""
    monkeypatch.setattr(wire_module, "KEPT_ALIVE_S", kept_s)
    peers = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        writer.write(CHUNKED + FRAMES)

    async with serving(answer) as wire:
        await post(wire)
        await asyncio.sleep(0.3)
        await post(wire)
    assert len(peers) == connections


async def test_an_answer_until_the_connection_closes() -> None:
    async with serving(saying(HEAD + b"\r\n" + b"".join(EVENTS), then_close=True)) as wire:
        for _ in range(2):
            assert await post(wire) == b"".join(EVENTS)


class _Transport:
    """What a connection uses of a transport."""

    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


def connection() -> tuple[Any, _Transport]:
    transport = _Transport()
    made: Any = _Connection()
    made.connection_made(transport)
    return made, transport


async def test_an_answer_may_be_cut_anywhere() -> None:
    """Also inside a frame's size and inside a character."""
    data = CHUNKED + FRAMES
    for cut in range(1, len(data)):
        made, _ = connection()
        taken: list[bytes] = []
        done = made.send(b"", taken.append)
        made.data_received(data[:cut])
        assert not done.done()
        made.data_received(data[cut:])
        assert done.done() and await done is None
        assert taken == EVENTS
        assert made.usable


async def test_what_nobody_asked_for_ends_a_connection() -> None:
    made, transport = connection()
    done = made.send(b"", lambda _: None)
    made.data_received(CHUNKED + FRAMES)
    await done
    assert made.usable
    made.data_received(b"HTTP/1.1 200 OK\r\n")
    assert transport.closed and not made.usable


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "status line"),
        (b"HTTP/1.0 200 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 abc\r\n\r\n", "no HTTP answer"),
        (CHUNKED + b"xyz\r\n", "no HTTP answer"),
        (CHUNKED + b"-5\r\n", "a frame of -5 bytes"),
        (CHUNKED + b"7fffffffff\r\n", "a frame of 549755813887 bytes"),
        (CHUNKED + b"0" * 70, "a frame without its size"),
        (b"HTTP/1.1 200 OK\r\n" + b"a" * MOST_HEAD_BYTES, "head longer than"),
    ],
)
async def test_what_is_no_http_breaks_the_connection(data: bytes, said: str) -> None:
    async with serving(saying(data)) as wire:
        with pytest.raises(WireError, match=said):
            await post(wire)


@pytest.mark.parametrize("cut", [0, 20, len(CHUNKED), len(CHUNKED) + 30, len(CHUNKED + FRAMES) - 2])
async def test_a_connection_that_ends_too_early(cut: int) -> None:
    async with serving(saying((CHUNKED + FRAMES)[:cut], then_close=True)) as wire:
        with pytest.raises(WireError, match="connection"):
            await post(wire)


async def test_a_status_comes_with_its_text() -> None:
    body = "{'error': 'fünf'}".encode()
    data = b"HTTP/1.1 503 Unavailable\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with serving(saying(data)) as wire:
        for _ in range(2):
            with pytest.raises(StatusError, match=r"status 503: .*fünf") as caught:
                await post(wire)
            assert caught.value.status == 503


async def test_a_post_that_is_cancelled_breaks_its_connection() -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        gone.set()

    async with serving(answer) as wire:
        task = asyncio.create_task(post(wire))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 60.0)


async def test_a_connection_that_is_lost_as_soon_as_it_is_made() -> None:
    """As an engine that dies at that moment leaves it: uvloop tells of the loss before the request is sent."""
    connection = _Connection()
    connection.connection_lost(None)
    with pytest.raises(WireError, match="before the request was sent"):
        connection.send(b"", lambda _: None)


async def test_nobody_there(free_port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        await post(Wire(f"http://127.0.0.1:{free_port}", connect_timeout_s=60.0))


@pytest.mark.parametrize("url", ["127.0.0.1:30000", "ftp://a:1", "http://", "a"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match="wanted http://HOST:PORT"):
        Wire(url, connect_timeout_s=1.0)
