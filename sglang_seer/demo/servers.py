"""Starts one SGLang server, waits until it serves, and always stops it."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from sglang_seer.demo import warm

HOST = "127.0.0.1"
HEALTH_POLL_S = 0.5
STOP_TIMEOUT_S = 15.0
SHOWN_LOG_LINES = 25
# SGLang listens some time after its start, and nothing may take the port meanwhile: below those that Linux gives to
# outgoing connections (32768 on), and below those of which engines take one for torch.distributed (22000 to 29999).
PORTS = range(10000, 22000)
# The last line of a traceback.
RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception)\b")


class ServerError(RuntimeError):
    """A server did not start or died; the text holds the reason, the log's last lines and its path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """How a server is started. flags: after `sglang.launch_server --host --port`. environment: on top of ours."""

    label: str
    port: int
    flags: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where it will serve."""
        return f"http://{HOST}:{self.port}"

    @property
    def command(self) -> list[str]:
        """The command line."""
        place = ["--host", HOST, "--port", str(self.port)]
        return [sys.executable, "-m", "sglang.launch_server", *place, *self.flags]


# Whoever got one may not listen there yet.
_given: set[int] = set()


def pick_port(wanted: int | None) -> int:
    """`wanted` if nobody listens there, or a free port that was not given before in this process.

    Raises ValueError for a port that is in use or is none.
    """
    if wanted is not None:
        _bind(wanted)
        return wanted
    for port in random.SystemRandom().sample(PORTS, 100):
        try:
            _bind(port)
        except ValueError:
            continue
        if port not in _given:
            _given.add(port)
            return port
    raise ValueError(f"wanted a free port on {HOST}; 100 from {PORTS.start} to {PORTS.stop - 1} are in use")


def _bind(port: int) -> None:
    with socket.socket() as probe:
        # A port whose last server has just gone is free to SGLang as well.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ValueError(f"--port {port}: wanted a free port on {HOST}: {error}") from error


def pick_ports(first: int | None, count: int) -> list[int]:
    """`count` free ports, from `first` on if it is given. Raises ValueError where one is in use."""
    return [pick_port(None if first is None else first + number) for number in range(count)]


def environment(plan: ServerPlan) -> dict[str, str]:
    """Ours, with the plan's on top. What the caller set for Seer is left out: a side has only what its plan says."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SGLANG_SEER")}
    return {**ours, **plan.environment}


def start(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes] | warm.WarmProcess:
    """A process in a group of its own, by a warm process where one is there; `log` takes what it says."""
    return warm.start(command, folder=folder, environment=environment, log=log) or subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


class Server:
    """One running server in its own process group; made by `serve`."""

    def __init__(self, plan: ServerPlan, folder: Path) -> None:
        self.plan = plan
        self.log = folder / f"{plan.label}.log"
        with self.log.open("wb") as log:
            # Started in the log's folder: no folder of ours shadows a package there.
            self.process = start(plan.command, folder=folder, environment=environment(plan), log=log)

    def wait_until_ready(self, timeout_s: float) -> float:
        """Seconds until the server answered /health. Raises ServerError where it died or `timeout_s` has passed."""
        started_s = time.monotonic()
        while (waited_s := time.monotonic() - started_s) < timeout_s:
            self.check()
            if self._healthy():
                return waited_s
            time.sleep(HEALTH_POLL_S)
        raise self.error(f"it was not ready after {timeout_s:.0f} s")

    def check(self) -> None:
        """Raises ServerError if the process has ended."""
        status = self.process.poll()
        if status is not None:
            raise self.error(f"it ended with exit status {status}")

    def error(self, reason: str) -> ServerError:
        """A ServerError with `reason` and what the log says."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        shown = "\n".join(f"  | {line}" for line in lines[-SHOWN_LOG_LINES:])
        raised = next((line for line in reversed(lines) if RAISED.match(line)), None)
        cause = f"\nThe last exception in its log: {raised}" if raised else ""
        return ServerError(f"the {self.plan.label} server failed: {reason}.{cause}\nThe end of {self.log}:\n{shown}")

    def stop(self) -> None:
        """Ends the whole process group and waits for it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break
            if self._group_gone(STOP_TIMEOUT_S):
                break
        self.process.wait()

    def _group_gone(self, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            # Without the poll the ended leader would stay in its group as a zombie.
            self.process.poll()
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.1)
        return False

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.plan.url}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Holds SIGINT and SIGTERM back until the block has ended; main thread only.

    Handlers are exchanged instead of blocking the signals: a child would inherit a blocked signal.
    """
    arrived: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if arrived:
        signal.raise_signal(arrived[0])


@contextmanager
def serve(plan: ServerPlan, folder: Path) -> Iterator[Server]:
    """A started server, stopped at the end whatever happens; `folder` takes its log."""
    server = None
    try:
        # An interrupt between the fork and the assignment would leave a process that nobody knows.
        with deferred_interrupts():
            server = Server(plan, folder)
        yield server
    finally:
        if server is not None:
            # Nor may a second Ctrl-C cut the stopping short; it takes at most twice STOP_TIMEOUT_S.
            with deferred_interrupts():
                server.stop()
