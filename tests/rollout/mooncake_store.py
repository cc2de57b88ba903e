"""A Mooncake store over tcp: its master and one store process, started and stopped by tests."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from sglang_seer.demo.servers import HOST, pick_ports

START_TIMEOUT_S = 60.0
# Several times what the tests write.
SEGMENT_BYTES = 256 << 20
# The master removes nothing that was read within this time, and a read that takes longer has failed.
LEASE_S = 10.0


def why_not() -> str | None:
    """Why there is no Mooncake on this machine, None where there is."""
    command = [sys.executable, "-c", "import mooncake.store"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
    if not done.returncode:
        return None
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return f"mooncake cannot be loaded (mooncake-transfer-engine-non-cuda, and the system's libibverbs1): {last}"


class MooncakeStore:
    """Both processes; a context manager. folder: takes their logs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._rpc, self._metadata, self._metrics, self._client = pick_ports(None, 4)

    @property
    def options(self) -> dict[str, Any]:
        """What SGLang's `--hicache-storage-backend-extra-config` wants to know. Engines bring no memory themselves."""
        return {
            "master_server_address": f"{HOST}:{self._rpc}",
            "metadata_server": f"http://{HOST}:{self._metadata}/metadata",
            "local_hostname": HOST,
            "protocol": "tcp",
            "device_name": "",
            "global_segment_size": 0,
        }

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self._folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=subprocess.STDOUT)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def _wait_for(self, path: str) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._get(path):
            logs = [log.read_text(errors="replace")[-2000:] for log in self._folder.glob("mooncake-*.log")]
            assert time.monotonic() < deadline_s, f"{path} is not there after {START_TIMEOUT_S:.0f} s: {logs}"
            time.sleep(0.1)

    def _get(self, path: str) -> str:
        """What the master says; nothing where it does not answer or does not have it."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self._metrics}{path}", timeout=5) as answer:
                text: str = answer.read().decode()
                return text.strip()
        except (urllib.error.URLError, OSError):
            return ""

    def stored(self, hashes: Sequence[str]) -> bool:
        """Whether the keys and values of these pages are there to be read, of one tensor rank."""
        # <model>_<hash>_<rank>_<k or v>. A key that is still being written is listed, too.
        names = {key.split("_")[-3]: key[:-1] for key in self._get("/get_all_keys").split() if key.endswith("_k")}
        return all(
            page in names and all(self._get(f"/query_key?key={names[page]}{part}") for part in "kv") for page in hashes
        )

    def kill_master(self) -> None:
        self._master.kill()
        self._master.wait()

    def __enter__(self) -> MooncakeStore:
        try:
            self._master = self._start(
                "mooncake-master",
                [
                    *(sys.executable, "-m", "mooncake.cli", f"--rpc_address={HOST}", f"--rpc_port={self._rpc}"),
                    f"--metrics_port={self._metrics}",
                    *("--enable_http_metadata_server=true", f"--http_metadata_server_port={self._metadata}"),
                    *(f"--http_metadata_server_host={HOST}", f"--default_kv_lease_ttl={LEASE_S * 1000:.0f}"),
                ],
            )
            self._wait_for("/health")
            self._start(
                "mooncake-store",
                [
                    *(sys.executable, "-m", "mooncake.cli_client", f"--host={HOST}", f"--port={self._client}"),
                    f"--master_server_address={HOST}:{self._rpc}",
                    *(f"--metadata_server={self.options['metadata_server']}", "--protocol=tcp"),
                    f"--global_segment_size={SEGMENT_BYTES}",
                ],
            )
            self._wait_for("/get_all_segments")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
