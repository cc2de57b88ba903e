"""Starting an engine as a fork of a warm process (`sglang_seer_cpu.warm`), where one is there."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

# Names the socket of the warm process.
WARM_ENV = "SGLANG_SEER_CPU_WARM"
ANSWER_TIMEOUT_S = 30.0


class WarmProcess:
    """A fork of the warm process: of subprocess.Popen, what a server needs."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection = connection

    def poll(self) -> int | None:
        """Its status if it has ended, below 0 by a signal."""
        return self._status(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Its status. Raises subprocess.TimeoutExpired."""
        status = self._status(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return status

    def _status(self, timeout_s: float | None) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout_s)[0]:
            line = _line(self._connection)
            self._connection.close()
            if not line:
                raise RuntimeError(f"the warm process that knows of process {self.pid} has ended")
            self.returncode = int(json.loads(line)["status"])
        return self.returncode


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
    except OSError:
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
