"""A Redis or Valkey server of our own on the loopback address, for benchmarks and tests."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sglang_seer.demo.buses import REDIS_PROGRAMS as PROGRAMS
from sglang_seer.demo.servers import pick_port

START_TIMEOUT_S = 60.0


def programs() -> list[str]:
    """Servers that are installed here."""
    return [program for program in PROGRAMS if shutil.which(program)]


class RedisServer:
    """A context manager. It keeps nothing on disk; what it says goes to a file in `folder`."""

    def __init__(self, folder: Path, *flags: str, program: str = PROGRAMS[0], port: int | None = None) -> None:
        self.port = pick_port(port)
        self._log = folder / f"{program}-{self.port}.log"
        self._command: Sequence[str] = (
            *(program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder)),
            *("--save", "", "--appendonly", "no", *flags),
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For a client without a password."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers. Raises RuntimeError with its log if it does not."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        client = redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0))
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            try:
                client.ping()
                return
            except redis.AuthenticationError:
                return
            except redis.RedisError:
                time.sleep(0.02)
        raise RuntimeError(f"{self._command[0]} did not start: {self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """End it as a crash would; nothing happens if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
