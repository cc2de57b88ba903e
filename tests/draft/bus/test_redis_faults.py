"""A real Redis that dies, comes back empty, is cut off, is full, wants a password, or is not there."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from sglang_seer.demo.redis_server import RedisServer
from sglang_seer.demo.servers import pick_port
from sglang_seer.draft.bus import BusError, Keeping
from sglang_seer.draft.bus.deltas import deltas
from sglang_seer.draft.bus.wire import pack, text_frames
from tests.draft.bus.members import GROUP, OTHER_GROUP, Member, until
from tests.draft.bus.proxy import Proxy

Joined = Callable[..., Member]


@pytest.fixture
def pair(redis_server: RedisServer, joined: Joined) -> tuple[Member, Member]:
    """A writer and a reader, between which a first text has gone."""
    writer, reader = joined(redis_server.url), joined(redis_server.url)
    reader.shared.subscribe([GROUP])
    writer.write(GROUP, 1, 0, range(10))
    until(reader.has(GROUP, 1, range(10)))
    return writer, reader


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with Proxy(redis_server.port) as between:
        yield between


def connected(*members: Member) -> Callable[[], bool]:
    return lambda: all(member.status("connected") for member in members)


def lost(*members: Member) -> Callable[[], bool]:
    return lambda: not any(member.status("connected") for member in members)


def test_killed_and_back_without_memory(redis_server: RedisServer, pair: tuple[Member, Member]) -> None:
    writer, reader = pair
    redis_server.kill()
    writer.write(GROUP, 1, 10, range(10, 20))
    writer.write(GROUP, 2, 0, [5], finished=True)
    until(lost(writer, reader))
    assert "Error" in str(reader.status("problem"))
    redis_server.start()
    until(connected(writer, reader))
    until(reader.has(GROUP, 1, range(20)))
    until(reader.has(GROUP, 2, [5]))
    assert reader.finished == [(GROUP, 2, 1)]
    assert writer.status("reconnects") >= 1
    assert writer.status("dropped_out_tokens") == 0


def test_one_who_comes_after_the_restart_gets_what_was_written_before(
    redis_server: RedisServer, pair: tuple[Member, Member], joined: Joined
) -> None:
    writer, _ = pair
    redis_server.kill()
    # Who has nothing to say or to ask does not notice.
    writer.write(OTHER_GROUP, 1, 0, [1])
    until(lost(writer))
    redis_server.start()
    late = joined(redis_server.url)
    late.shared.subscribe([GROUP])
    until(late.has(GROUP, 1, range(10)))


@pytest.mark.parametrize("how", ["cut", "stall"])
def test_a_network_that_is_cut_or_stands_still(
    redis_server: RedisServer, proxy: Proxy, joined: Joined, how: str
) -> None:
    far = joined(f"redis://127.0.0.1:{proxy.port}/0")
    near = joined(redis_server.url)
    for member in (far, near):
        member.shared.subscribe([GROUP])
    far.write(GROUP, 1, 0, [1])
    until(near.has(GROUP, 1, [1]))
    proxy.cut() if how == "cut" else proxy.stall()
    far.write(GROUP, 1, 1, [2])
    near.write(GROUP, 2, 0, [7])
    until(lost(far))
    proxy.mend()
    until(near.has(GROUP, 1, [1, 2]))
    until(far.has(GROUP, 2, [7]))
    until(connected(far))


def test_a_full_memory_refuses_until_there_is_room(redis_program: str, tmp_path: Path, joined: Joined) -> None:
    flags = ("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    with RedisServer(tmp_path, *flags, program=redis_program) as server:
        writer, reader = joined(server.url), joined(server.url)
        reader.shared.subscribe([GROUP])
        writer.write(GROUP, 1, 0, range(10))
        until(lambda: bool(writer.status("refused_writes")))
        assert "OOM" in str(writer.status("problem")) or "OutOfMemory" in str(writer.status("problem"))
        until(connected(writer, reader))
        redis.Redis(port=server.port).config_set("maxmemory", 0)
        until(reader.has(GROUP, 1, range(10)))
        until(lambda: writer.status("problem") == "")


def test_a_stream_lives_on_while_it_is_used_and_ends_when_it_is_not(redis_server: RedisServer, joined: Joined) -> None:
    patient, writer = (joined(redis_server.url, keeping=Keeping(ttl_s=ttl_s)) for ttl_s in (3600.0, 1.0))
    client = redis.Redis(port=redis_server.port)
    patient.write(GROUP, 1, 0, [1])
    until(lambda: client.dbsize() == 1)
    assert 1800 < client.ttl(client.keys()[0]) <= 3600
    writer.write(OTHER_GROUP, 1, 0, [1])
    until(lambda: client.info("stats")["expired_keys"] > 0 and client.dbsize() == 1)
    # Written again and again, it comes before it ends.
    patient.shared.subscribe([OTHER_GROUP])
    numbers = itertools.count(2)

    def comes() -> bool:
        writer.write(OTHER_GROUP, next(numbers), 0, [1])
        patient.take()
        return bool(patient.text)

    until(comes)


def test_streams_are_bounded(redis_server: RedisServer, pair: tuple[Member, Member]) -> None:
    from sglang_seer.draft.bus import redis_bus

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis_bus, "MOST_ENTRIES", 100)
        writer, _ = pair
        for i in range(400):
            writer.write(OTHER_GROUP, i, 0, [1])
            until(lambda: writer.status("queued_out_tokens") == 0)
        client = redis.Redis(port=redis_server.port)
        until(lambda: max(client.xlen(key) for key in client.keys("*")) < 400)


@pytest.mark.parametrize("message", [b"", b"nonsense", b"x" * (2 << 20)])
def test_what_others_put_into_a_stream_is_dropped_and_counted(
    redis_server: RedisServer, pair: tuple[Member, Member], message: bytes
) -> None:
    writer, reader = pair
    client = redis.Redis(port=redis_server.port)
    client.xadd(client.keys()[0], {"t": message})
    client.xadd(client.keys()[0], {"other": b"field"})
    until(lambda: sum(reader.status("dropped_messages").values()) >= 2)  # type: ignore[attr-defined]
    writer.write(GROUP, 1, 10, [3])
    until(reader.has(GROUP, 1, [*range(10), 3]))


def test_another_protocol_is_said_plainly_and_once(
    redis_server: RedisServer, pair: tuple[Member, Member], caplog: pytest.LogCaptureFixture
) -> None:
    _, reader = pair
    client = redis.Redis(port=redis_server.port)
    (frame,) = text_frames(1, 99, deltas([GROUP], [9], [0], [1], [1]))
    for _ in range(2):
        client.xadd(client.keys()[0], {"t": b"\x63" + pack(frame)[1:]})
    until(lambda: reader.status("dropped_messages") == {"protocol": 2})
    said = [record.message for record in caplog.records if "bus protocol 99" in record.message]
    assert len(said) == 1
    assert (GROUP, 9) not in reader.text


def test_passwords(redis_program: str, tmp_path: Path, joined: Joined, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(tmp_path, "--requirepass", "s3cret", program=redis_program) as server:
        place = f"127.0.0.1:{server.port}/0"
        right = joined(f"redis://:s3cret@{place}")
        until(connected(right))
        for wrong in (f"redis://:wr0ng@{place}", f"redis://{place}"):
            with pytest.raises(BusError, match=r"(?i)auth|password") as error:
                joined(wrong)
            assert "wr0ng" not in str(error.value)
        with caplog.at_level(logging.WARNING):
            unwanted = joined(f"redis://:wr0ng@{place}", required=False)
        assert "drafting goes on from local text" in caplog.text
        assert "wr0ng" not in caplog.text + str(unwanted.shared.status())
        assert "s3cret" not in str(right.shared.status())


def test_a_server_that_is_not_there(redis_program: str, tmp_path: Path, joined: Joined) -> None:
    """Required: an error. Not required: a warning, and it is used once it comes."""
    port = pick_port(None)
    url = f"redis://127.0.0.1:{port}/0"
    with pytest.raises(BusError, match=f"127.0.0.1:{port}.*refused"):
        joined(url)
    early = joined(url, required=False)
    early.shared.subscribe([GROUP])
    assert lost(early)()
    with RedisServer(tmp_path, program=redis_program, port=port):
        until(connected(early))
        joined(url).write(GROUP, 1, 0, [4])
        until(early.has(GROUP, 1, [4]))


def test_options_that_the_client_does_not_know_are_named(redis_server: RedisServer, joined: Joined) -> None:
    with pytest.raises(BusError, match="colour"):
        joined(f"{redis_server.url}?colour=red")
