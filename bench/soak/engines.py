"""Two CPU engines with Seer that share text over ZeroMQ, and that come back when they are killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file

from bench.controller.cpu_engines import MODEL
from bench.soak.memory import MIB
from sglang_seer.demo.plan import shared_environment, shared_flags
from sglang_seer.demo.servers import RAISED, Server, ServerPlan, pick_ports, serve

ENGINES = 2
# Of SGLang's checks while it is idle and while it is busy, and of whatever else went wrong.
FAULTS = re.compile(r"memory leak detected|Mem Leak Detected|Traceback \(most recent call last\)")
# The pool is checked after each step, too, not only when the engine is idle.
STRICT = {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1"}


def checkpoints(folder: Path) -> dict[str, Path]:
    """Two models by the version of their weights: the shipped one, and one with flatter probabilities."""
    changed = folder / "changed"
    shutil.copytree(MODEL, changed)
    weights = load_file(MODEL / "model.safetensors")
    weights["model.norm.weight"] *= 0.9
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    return {"shipped": MODEL, "changed": changed}


def faults_in(logs: Iterable[Path]) -> list[str]:
    """Lines that tell of a leak in SGLang's pools or of an exception, and what was raised."""
    found = []
    for log in logs:
        lines = log.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines):
            # SGLang calls itself at its start, sometimes before it listens: it logs the failure and goes on.
            around = lines[max(number - 1, 0) : number + 70]
            if FAULTS.search(line) and not any("freeze_gc" in near for near in around):
                raised = next((later for later in lines[number + 1 :] if RAISED.match(later)), "")
                found.append(f"{log.name}, line {number + 1} of {len(lines)}: {line[:200]} {raised[:300]}".rstrip())
    return found


async def status_of(url: str) -> dict[str, Any]:
    """What Seer says of itself in an engine."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/server_info") as answer:
        status: dict[str, Any] = (await answer.json())["internal_states"][0]["sglang_seer"]
        return status


def rss_mib(server: Server) -> float:
    """Of all processes of a server. Raises psutil.NoSuchProcess where it does not live."""
    leader = psutil.Process(server.process.pid)
    return float(sum(one.memory_info().rss for one in (leader, *leader.children(True)))) / MIB


class Fleet:
    """The engines; made by `fleet`. servers: those that run now, or start."""

    def __init__(self, folder: Path, stack: ExitStack, weights: dict[str, Path], *, pool: int, running: int) -> None:
        self._folder, self._stack, self._pool, self._running = folder, stack, pool, running
        self.weights = weights
        self.version = next(iter(weights))
        self._started: list[Server] = []
        self._ports = pick_ports(None, ENGINES)
        self.servers = [self._start(number) for number in range(ENGINES)]

    def _start(self, number: int) -> Server:
        flags = (
            *shared_flags(self.weights[self.version], kv_tokens=self._pool, max_running=self._running),
            *("--weight-version", self.version, "--tokenizer-path", str(MODEL), "--sleep-on-idle"),
            *("--scheduler-policy", "seer", "--seer-config", json.dumps({"bus": f"ipc://{self._folder}/bus"})),
        )
        plan = ServerPlan(
            label=f"engine-{number}-{len(self._started) + 1}",
            port=self._ports[number],
            flags=flags,
            environment={**shared_environment(), **STRICT},
        )
        self._started.append(self._stack.enter_context(serve(plan, self._folder)))
        return self._started[-1]

    @property
    def urls(self) -> list[str]:
        return [server.plan.url for server in self.servers]

    def kill(self, number: int) -> None:
        """-9 to all its processes."""
        process = self.servers[number].process
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def restart(self, number: int) -> None:
        """At its port, with the weights of now; it serves some time later."""
        self.servers[number] = self._start(number)

    def rss_mib(self) -> dict[str, float]:
        """Of each engine that lives, by its start."""
        found = {}
        for server in self.servers:
            with contextlib.suppress(psutil.NoSuchProcess):
                found[server.plan.label] = rss_mib(server)
        return found

    def alive(self) -> list[str]:
        """Engines of which a process lives, by their starts."""
        found = []
        for server in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.process.pid, 0)
                found.append(server.plan.label)
        return found

    def meeting(self) -> list[str]:
        """Files in the folder where engines find each other."""
        return sorted(path.name for path in (self._folder / "bus").glob("*"))

    def faults(self) -> list[str]:
        """As `faults_in`, of all engines that ever ran."""
        return faults_in(sorted(self._folder.glob("engine-*.log")))


@contextmanager
def fleet(folder: Path, *, pool: int, running: int) -> Iterator[Fleet]:
    """Both engines, started; stopped at the end whatever happens."""
    with ExitStack() as stack:
        yield Fleet(folder, stack, checkpoints(folder), pool=pool, running=running)
