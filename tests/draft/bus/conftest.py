"""Real servers and members of a bus, which end with the test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_seer.demo.redis_server import RedisServer, programs
from tests.draft.bus.members import Member, join

_names = itertools.count()


@pytest.fixture
def redis_program() -> str:
    if not programs():
        pytest.skip("neither redis-server nor valkey-server is installed: apt-get install redis-server")
    return programs()[0]


@pytest.fixture
def redis_server(redis_program: str, tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, program=redis_program) as server:
        yield server


@pytest.fixture(params=["inproc", "ipc", "tcp", "redis-server", "valkey-server"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Of two members of one bus, each kind there is."""
    kind = request.param
    if kind == "inproc":
        yield (f"inproc:{next(_names)}",) * 2
    elif kind == "ipc":
        yield (f"ipc://{tmp_path}/bus",) * 2
    elif kind == "tcp":
        from sglang_seer.demo.servers import pick_ports

        first, second = (f"127.0.0.1:{port}" for port in pick_ports(None, 2))
        yield f"tcp://{first}?peer={second}", f"tcp://{second}?peer={first}"
    elif kind in programs():
        with RedisServer(tmp_path, program=kind) as server:
            yield (server.url,) * 2
    else:
        pytest.skip(f"{kind} is not installed")


@pytest.fixture
def joined() -> Iterator[Callable[..., Member]]:
    """Join a bus until the test ends."""
    members: list[Member] = []

    def enter(url: str, **options: Any) -> Member:
        members.append(join(url, **options))
        return members[-1]

    yield enter
    for member in members:
        member.shared.close()
