"""Engines of one host that die, and folders and sockets that others must not enter."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from sglang_seer.demo.servers import pick_port
from sglang_seer.draft.bus import BusError, share_text
from sglang_seer.draft.bus.wire import PROTOCOL
from tests.draft.bus.members import GROUP, Member, until

Joined = Callable[..., Member]
WRITER = """
import sys, time
from tests.draft.bus.members import join
member = join(sys.argv[1])
member.write(int(sys.argv[2]), 5, 0, [1, 2, 3])
time.sleep(600)
"""


def test_an_engine_that_was_killed_leaves_nothing_and_its_successor_is_heard(
    joined: Joined, tmp_path: Path, repository: Path
) -> None:
    url = f"ipc://{tmp_path}/bus"
    reader = joined(url)
    reader.shared.subscribe([GROUP])

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WRITER, url, str(GROUP)], cwd=repository)

    for _ in range(2):
        reader.text.clear()
        reader.shared.unsubscribe([GROUP])
        reader.shared.subscribe([GROUP])
        writer = start()
        try:
            until(reader.has(GROUP, 5, [1, 2, 3]))
            assert len(list((tmp_path / "bus").glob("*.sock"))) == 2
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
        until(lambda: reader.status("peers") == 0)
        assert len(list((tmp_path / "bus").glob("*"))) == 2


def test_nobody_else_may_enter(joined: Joined, tmp_path: Path) -> None:
    joined(f"ipc://{tmp_path}/bus")
    assert stat.S_IMODE((tmp_path / "bus").stat().st_mode) == 0o700
    (socket,) = (tmp_path / "bus").glob("*.sock")
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    (tmp_path / "bus").chmod(0o755)
    with pytest.raises(BusError, match="mode 0755, wanted one of this user"):
        joined(f"ipc://{tmp_path}/bus")


def test_an_address_that_cannot_be_used(joined: Joined, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BusError, match="cannot"):
        joined(f"ipc://{tmp_path}/{'x' * 120}/bus")
    (tmp_path / "file").touch()
    with pytest.raises(BusError, match="cannot be used"):
        joined(f"ipc://{tmp_path}/file/bus")
    port = pick_port(None)
    joined(f"tcp://127.0.0.1:{port}")
    with pytest.raises(BusError, match="in use"):
        joined(f"tcp://127.0.0.1:{port}")
    assert share_text(f"tcp://127.0.0.1:{port}", version=1, vocab_size=10, required=False) is None
    assert "drafting goes on from local text" in caplog.text


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"", "corrupt"),
        (b"nonsense", "protocol"),
        (bytes([PROTOCOL]) + b"nonsense", "corrupt"),
        (b"x" * (2 << 20), None),  # ZeroMQ itself turns it away
    ],
)
def test_what_strangers_send_does_no_harm(joined: Joined, tmp_path: Path, message: bytes, kind: str | None) -> None:
    url = f"ipc://{tmp_path}/bus"
    writer = joined(url)
    (socket,) = (tmp_path / "bus").glob("*.sock")
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.connect(f"ipc://{socket}")
    for _ in range(3):
        stranger.send(message)
    reader = joined(url)
    reader.shared.subscribe([GROUP])
    writer.write(GROUP, 1, 0, [1])
    until(reader.has(GROUP, 1, [1]))
    if kind is not None:
        until(lambda: writer.status("dropped_messages") == {kind: 3})
    stranger.close(linger=0)
    context.term()
