"""Runs a workload under a system on engines of its own, and compares its samples with the baseline's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.bus.redis_server import RedisServer, programs
from bench.rollout.systems import System, Workload
from sglang_seer.demo import inputs
from sglang_seer.demo.plan import plan_requests, pool_tokens, shared_environment, shared_flags
from sglang_seer.demo.servers import ServerPlan, pick_ports
from sglang_seer.demo.side import run_side
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.records import GenerateRequest
from sglang_seer.rollout.synchronous import Rollout

START_TIMEOUT_S = 300.0
ROLLOUT_TIMEOUT_S = 1200.0


def requests_of(workload: Workload, model: Path, seed: int) -> list[GenerateRequest]:
    """The workload's samples; prompts and seeds of samples follow `seed`."""
    prompts = inputs.example_prompts(workload.drawn or workload.prompts, seed)
    prompts = sorted(prompts, key=lambda one: len(one.prompt))[-workload.prompts :] if workload.drawn else prompts
    return plan_requests(
        prompts,
        inputs.load_tokenizer(model),
        samples=workload.samples,
        seed=seed,
        limit=workload.limit,
        context=inputs.context_length(model),
    )


def run(
    name: str, system: System, workload: Workload, requests: Sequence[GenerateRequest], model: Path, folder: Path
) -> Rollout:
    """The rollout; engines are started for it and stopped after it.

    Raises ServerError where an engine fails, ValueError for a Redis that is not installed.
    """
    shared = shared_flags(
        model,
        kv_tokens=workload.kv_tokens or pool_tokens(requests, workload.engines),
        max_running=workload.running,
    )
    folder.mkdir(parents=True)
    with _configured(system, folder) as config:
        plans = [
            ServerPlan(
                label=f"{name}-{number}",
                port=port,
                flags=(*shared, *system.flags, *config),
                environment={**shared_environment(), **workload.environment, **system.environment},
            )
            for number, port in enumerate(pick_ports(None, workload.engines))
        ]
        return run_side(
            name,
            plans,
            requests,
            folder,
            controller=RolloutConfig(chunk_tokens=workload.chunk_tokens) if system.divided else None,
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
