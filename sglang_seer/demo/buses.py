"""Ways in which the demo's Seer engines share text."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUSES = ("none", "ipc", "redis")
TITLES = {"none": "nothing shared", "ipc": "shared over ZeroMQ", "redis": "shared over Redis"}
REDIS_PROGRAMS = ("redis-server", "valkey-server")


def check(buses: list[str], engines: int) -> None:
    """Raises ValueError for a comparison that says nothing, and for one that cannot be made here."""
    if buses and engines < 2:
        raise ValueError(f"--compare-bus: wanted at least 2 engines to share text, saw --engines {engines}")
    if "redis" in buses and not any(map(shutil.which, REDIS_PROGRAMS)):
        raise ValueError(f"--compare-bus redis: wanted one of {', '.join(REDIS_PROGRAMS)} on PATH, saw none")


@contextmanager
def address(bus: str, folder: Path) -> Iterator[str]:
    """URL of a bus; a Redis server of its own runs as long. folder: takes what it needs."""
    if bus == "redis":
        # Its client is optional.
        from sglang_seer.demo.redis_server import RedisServer, programs

        with RedisServer(folder, program=programs()[0]) as server:
            yield server.url
    else:
        yield f"ipc://{folder}/bus" if bus == "ipc" else "inproc:"
