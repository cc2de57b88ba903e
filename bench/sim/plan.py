"""What is simulated: the paper's workloads under every policy, and the sweeps."""

from __future__ import annotations

from math import inf
from typing import Any

import msgspec

from bench.sim.cells import Cell
from sglang_seer.schedule.placement import PlacementRules
from sglang_seer.sim.workload import PAPER, Workload

POLICIES = (
    "verl",
    "fcfs",
    "streamrl-oracle",
    "partial",
    "divided",
    "seer-paper",
    "seer",
    "seer-own-drafts",
    "seer-spec",
    "oracle",
)
SEEDS = 5
PAPER_CHUNK = 8192
PAPER_PLACEMENT = PlacementRules(balance_share=inf)
# Sweeps run on a quarter of the Qwen2-VL-72B workload, where memory is shortest.
SWEPT = "qwen2-vl-72b"
SWEEP_POLICIES = ("verl", "divided", "seer", "oracle")
CORRELATIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
# Factors on the variance within prompts, that between them as it is: what a higher temperature does to lengths.
NOISES = (0.0, 0.25, 1.0, 2.0, 4.0)
GROUP_SIZES = (4, 8, 16, 32, 64, 128, 256, 512)
CLUSTERS = (256, 512, 1024, 2048, 4096)
MEMORIES = (0.5, 0.6, 0.7, 0.8, 0.9)
CHUNKS = (512, 1024, 2048, 4096, 8192)


def scaled(workload: Workload, share: float) -> Workload:
    """Fewer prompts on as many fewer GPUs, at least one instance's."""
    return msgspec.structs.replace(
        workload, prompts=max(1, int(workload.prompts * share)), gpus=max(32, int(workload.gpus * share))
    )


def tables(quick: bool, seeds: int = SEEDS) -> list[Cell]:
    """Every policy on the three workloads. quick: one seed, a quarter of the two larger ones."""
    shares = {"moonlight": 1.0, "qwen2-vl-72b": 0.25, "kimi-k2": 0.25} if quick else dict.fromkeys(PAPER, 1.0)
    return [
        Cell(name, scaled(workload, shares[name]), policy, seed)
        for name, workload in PAPER.items()
        for seed in range(1 if quick else seeds)
        for policy in POLICIES
    ]


def group_sizes(quick: bool, seeds: int = SEEDS) -> list[Cell]:
    """All of Seer with 8 and with 16 samples a prompt, the same number of requests."""
    cells = []
    for name, workload in PAPER.items():
        base = scaled(workload, 0.25 if quick else 1.0)
        total = base.prompts * base.group_size
        for size in (8, 16):
            changed = msgspec.structs.replace(base, group_size=size, prompts=total // size)
            cells += [Cell(f"{name}/G={size}", changed, "seer-spec", seed) for seed in range(1 if quick else seeds)]
    return cells


def sweeps(quick: bool, seeds: int = SEEDS) -> list[Cell]:
    """Everything past the paper but the cluster sizes."""
    base = scaled(PAPER[SWEPT], 0.25)
    cells: list[Cell] = []

    def add(case: str, workload: Workload, policies: tuple[str, ...] = SWEEP_POLICIES, **more: Any) -> None:
        for seed in range(1 if quick else seeds):
            cells.extend(Cell(case, workload, policy, seed, **more) for policy in policies)

    for value in CORRELATIONS[:: 3 if quick else 1]:
        add(f"correlation={value}", msgspec.structs.replace(base, correlation=value))
    between, within = base.sigma**2 * base.correlation, base.sigma**2 * (1.0 - base.correlation)
    for value in NOISES[:: 2 if quick else 1]:
        total = between + value * within
        noisy = msgspec.structs.replace(base, sigma=total**0.5, correlation=between / total)
        add(f"noise={value}", noisy)
    for size in GROUP_SIZES[:: 3 if quick else 1]:
        requests = base.prompts * base.group_size
        add(f"G={size}", msgspec.structs.replace(base, group_size=size, prompts=max(1, requests // size)))
    for value in MEMORIES[:: 2 if quick else 1]:
        add(f"memory={value}", base, memory_fraction=value)
    for chunk in CHUNKS[:: 2 if quick else 1]:
        add(f"chunk={chunk}", base, ("divided", "seer", "oracle"), chunk_tokens=chunk)
    add("placement=paper", base, ("divided", "seer", "oracle"), placement=PAPER_PLACEMENT)
    return cells


def clusters(quick: bool) -> list[Cell]:
    """Kimi-K2 on more GPUs with as many more prompts; chunks of the paper's length keep the events few."""
    load = PAPER["kimi-k2"]
    sizes = CLUSTERS[:2] if quick else CLUSTERS
    return [
        Cell(f"gpus={size}", scaled(load, size / load.gpus), policy, 0, chunk_tokens=PAPER_CHUNK)
        for size in sizes
        for policy in ("verl", "divided", "seer")
    ]
