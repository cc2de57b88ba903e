"""Runs a rollout under a system on engines of its own, and compares its samples with the baseline's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.rollout.systems import SYSTEMS, System
from sglang_seer.demo import buses
from sglang_seer.demo.servers import ServerPlan, pick_ports
from sglang_seer.demo.side import run_side
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.records import GenerateRequest, Generation
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
    systems: Sequence[str],
    repetitions: Sequence[tuple[Engines, Sequence[GenerateRequest]]],
    folder: Path,
    more: Sequence[Sequence[GenerateRequest]] = (),
) -> dict[str, list[Rollout]]:
    """Every system's rollout of each repetition, in turn forwards and backwards; logs go to `folder`.

    more: requests of each repetition that a system issues beyond those that are wanted.
    """
    rollouts: dict[str, list[Rollout]] = {name: [] for name in systems}
    for number, (engines, requests) in enumerate(repetitions):
        beyond = more[number] if more else ()
        for name in systems[:: 1 if number % 2 == 0 else -1]:
            rollouts[name].append(run(name, engines, requests, folder / f"{number}-{name}", beyond))
    return rollouts


def run(
    name: str,
    engines: Engines,
    requests: Sequence[GenerateRequest],
    folder: Path,
    more: Sequence[GenerateRequest] = (),
) -> Rollout:
    """The rollout under the system of that name; engines are started for it and stopped after it.

    Raises ServerError where an engine fails, ValueError for a Redis that is not installed, and where a system issues
    more requests than there are.
    """
    system = SYSTEMS[name]
    asked = [*requests, *more] if system.issued > 1 else requests
    if len(asked) != system.issued * len(requests):
        raise ValueError(f"{name}: issues {system.issued * len(requests)} requests, there are {len(asked)}")
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
            asked,
            folder,
            controller=RolloutConfig(chunk_tokens=engines.chunk_tokens) if system.divided else None,
            start_timeout_s=START_TIMEOUT_S,
            timeout_s=ROLLOUT_TIMEOUT_S,
            enough=len(requests) if system.issued > 1 else None,
        )


@contextmanager
def _configured(system: System, folder: Path) -> Iterator[tuple[str, ...]]:
    """Flags with Seer's configuration; what carries shared text lives as long as they are used."""
    config = dict(system.config or {})
    if system.bus is None:
        yield ("--seer-config", json.dumps(config)) if config else ()
        return
    buses.check([system.bus], engines=2)
    with buses.address(system.bus, folder) as url:
        yield ("--seer-config", json.dumps({**config, "bus": url}))


def identical(rollout: Rollout, baseline: Rollout) -> int:
    """Samples of the baseline that are there with the same tokens and the same end."""
    return sum(same for _, same in _pairs(rollout, baseline))


def different(rollout: Rollout, baseline: Rollout) -> int:
    """Samples of the baseline that are there with other tokens or another end."""
    return sum(not same for _, same in _pairs(rollout, baseline))


def _pairs(rollout: Rollout, baseline: Rollout) -> Iterator[tuple[Generation, bool]]:
    wanted = {(one.group, one.sample): one for one in baseline.generations}
    for one in rollout.generations:
        base = wanted.get((one.group, one.sample))
        if base is not None:
            yield one, (one.output_ids, one.finish_reason) == (base.output_ids, base.finish_reason)
