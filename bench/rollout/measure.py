"""Runs a rollout under a system on engines of its own, and compares its samples with the baseline's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.bus.redis_server import RedisServer, programs
from bench.rollout.systems import SYSTEMS, System
from sglang_seer.demo.servers import ServerPlan, pick_ports
from sglang_seer.demo.side import run_side
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.records import GenerateRequest
from sglang_seer.rollout.synchronous import Rollout

START_TIMEOUT_S = 300.0
ROLLOUT_TIMEOUT_S = 1200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What the engines of all systems have in common. count: of a side. chunk_tokens: of divided rollouts."""

    count: int
    flags: tuple[str, ...]
    environment: Mapping[str, str]
    chunk_tokens: int


def repeated(
    systems: Sequence[str], repetitions: Sequence[tuple[Engines, Sequence[GenerateRequest]]], folder: Path
) -> dict[str, list[Rollout]]:
    """Every system's rollout of each repetition, in turn forwards and backwards; logs go to `folder`."""
    rollouts: dict[str, list[Rollout]] = {name: [] for name in systems}
    for number, (engines, requests) in enumerate(repetitions):
        for name in systems[:: 1 if number % 2 == 0 else -1]:
            rollouts[name].append(run(name, engines, requests, folder / f"{number}-{name}"))
    return rollouts


def run(name: str, engines: Engines, requests: Sequence[GenerateRequest], folder: Path) -> Rollout:
    """The rollout under the system of that name; engines are started for it and stopped after it.

    Raises ServerError where an engine fails, ValueError for a Redis that is not installed.
    """
    system = SYSTEMS[name]
    folder.mkdir(parents=True)
    with _configured(system, folder) as config:
        plans = [
            ServerPlan(
                label=f"{name}-{number}",
                port=port,
                flags=(*engines.flags, *system.flags, *config),
                environment={**engines.environment, **system.environment},
            )
            for number, port in enumerate(pick_ports(None, engines.count))
        ]
        return run_side(
            name,
            plans,
            requests,
            folder,
            controller=RolloutConfig(chunk_tokens=engines.chunk_tokens) if system.divided else None,
            start_timeout_s=START_TIMEOUT_S,
            timeout_s=ROLLOUT_TIMEOUT_S,
        )


@contextmanager
def _configured(system: System, folder: Path) -> Iterator[tuple[str, ...]]:
    """Flags with Seer's configuration; a Redis lives as long as they are used."""
    if not system.config:
        yield ()
    elif system.config.get("bus") == "redis":
        if not programs():
            raise ValueError("seer-redis: neither redis-server nor valkey-server is installed")
        with RedisServer(folder, program=programs()[0]) as server:
            yield ("--seer-config", json.dumps({**system.config, "bus": server.url}))
    elif system.config.get("bus") == "ipc":
        yield ("--seer-config", json.dumps({**system.config, "bus": f"ipc://{folder}/bus"}))
    else:
        yield ("--seer-config", json.dumps(dict(system.config)))


def identical(rollout: Rollout, baseline: Rollout) -> int:
    """Samples with the same tokens and the same end."""
    pairs = zip(rollout.generations, baseline.generations, strict=True)
    return sum((a.output_ids, a.finish_reason) == (b.output_ids, b.finish_reason) for a, b in pairs)
