"""One simulated rollout after the other: what is run, and what is kept of it."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from sglang_seer.schedule.placement import PlacementRules
from sglang_seer.sim import acceptance, builtin
from sglang_seer.sim.cluster import Cluster, simulate
from sglang_seer.sim.policy import policy
from sglang_seer.sim.rollout import partial_rollout
from sglang_seer.sim.workload import Workload


@dataclass(frozen=True, slots=True)
class Cell:
    """A rollout to simulate. case: the workload's name, or a sweep and its value."""

    case: str
    workload: Workload
    policy: str
    seed: int
    chunk_tokens: int = 2048
    placement: PlacementRules = field(default_factory=PlacementRules)
    memory_fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Numbers of one rollout. first_share: mean length of what a partial rollout delivers first, over all; else 1."""

    cell: Cell
    seconds: float
    tokens_per_s: float
    tail_s: float
    retractions: int
    migrated_tb: float
    busy_share: float
    first_share: float
    samples: list[list[float]]


def run(cell: Cell) -> Outcome:
    """Simulate one cell."""
    load, chosen = cell.workload, policy(cell.policy)
    instance = builtin.profile(load.model, memory_fraction=cell.memory_fraction)
    cluster = Cluster(
        profile=instance,
        instances=load.gpus // instance.gpus,
        chunk_tokens=cell.chunk_tokens,
        placement=cell.placement,
        acceptance=acceptance.paper(),
    )
    if chosen.issued > 1:
        done = partial_rollout(cluster, chosen, load, cell.seed)
        last = done.steps[-1]
        seconds, rate, first = done.seconds_a_step, done.tokens_per_s, done.first_mean_tokens / done.mean_tokens
    else:
        last = simulate(cluster, chosen, load.requests(cell.seed))
        seconds, rate, first = last.seconds, last.tokens_per_s, 1.0
    return Outcome(
        cell=cell,
        seconds=seconds,
        tokens_per_s=rate,
        tail_s=last.tail_s,
        retractions=last.counts.retractions,
        migrated_tb=last.counts.migrated_bytes / 1e12,
        busy_share=sum(last.busy_s) / len(last.busy_s) / last.seconds,
        first_share=first,
        samples=[list(sample) for sample in last.samples],
    )


def run_all(cells: Iterable[Cell], jobs: int) -> list[Outcome]:
    """In the order of the cells, whatever the number of processes."""
    if jobs == 1:
        return [run(cell) for cell in cells]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(run, cells))
