"""Starting an engine as a fork of a warm process (`sglang_seer_cpu.warm`), where one is there."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

# Names the socket of the warm process.
WARM_ENV = "SGLANG_SEER_CPU_WARM"
# A fork answers at once, but on a machine that stands still for a while.
ANSWER_TIMEOUT_S = 120.0
LOOK_S = 0.5
# Of a process whose parent has ended before it.
UNKNOWN_STATUS = 255


class WarmProcess:
    """A fork of the warm process: of subprocess.Popen, what a server needs."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection: socket.socket | None = connection

    def poll(self) -> int | None:
        """Its status if it has ended, below 0 by a signal."""
        return self._status(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Its status. Raises subprocess.TimeoutExpired."""
        deadline_s = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (status := self._status(min(max(deadline_s - time.monotonic(), 0.0), LOOK_S))) is None:
            if time.monotonic() >= deadline_s:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return status

    def _status(self, timeout_s: float) -> int | None:
        if self.returncode is not None:
            return self.returncode
        if self._connection is not None:
            waiting = select.poll()
            waiting.register(self._connection, select.POLLIN)
            if not waiting.poll(1000 * timeout_s):
                return None
            line = _line(self._connection)
            self._connection.close()
            self._connection = None
            if line:
                self.returncode = int(json.loads(line)["status"])
                return self.returncode
        # The warm process has ended, and nobody else learns the status.
        if not _lives(self.pid):
            self.returncode = UNKNOWN_STATUS
        else:
            time.sleep(timeout_s)
        return self.returncode


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def start(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: IO[bytes]
) -> WarmProcess | None:
    """None where no warm process is there, or it cannot be of use; start it the usual way then."""
    path = os.environ.get(WARM_ENV)
    if not path:
        return None
    request = {"command": list(command), "environment": dict(environment), "folder": str(folder)}
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(ANSWER_TIMEOUT_S)
        connection.connect(path)
        data = json.dumps(request).encode() + b"\n"
        sent = socket.send_fds(connection, [data], [log.fileno()])
        connection.sendall(data[sent:])
        answer = json.loads(_line(connection) or b"{}")
        # It waits for that: who gives up before has no engine that nobody knows of.
        connection.sendall(b"\n")
    except (OSError, ValueError):
        # Not there yet, or not any more.
        answer = {}
    if "pid" not in answer:
        connection.close()
        return None
    connection.settimeout(None)
    return WarmProcess(connection, int(answer["pid"]))


def _line(connection: socket.socket) -> bytes:
    """One answer, empty where there is none any more. Byte by byte: the next answer stays in the socket."""
    line = b""
    while not line.endswith(b"\n") and (byte := connection.recv(1)):
        line += byte
    return line
