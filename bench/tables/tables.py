"""The tables: what each is made of. A new one is a line here and a function from Results to Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.tables import bus, controller, demo, draft, grpo, lengths, observe, reality, rollout, sim, soak
from bench.tables.results import Results


@dataclass(frozen=True, slots=True)
class Table:
    """file: of bench/results. command: makes it again."""

    file: str
    command: str
    render: Callable[[Results], str]


BENCH = "python -m sglang_seer bench"
DRAFT = f"{BENCH} draft --data DIR --json FILE --plots DIR"
BUS = f"{BENCH} bus --parts acceptance --data DIR --json FILE"
TRAINING = "fcfs,lof,lpm,ngram,ngram-chain-4,ngram-chain-8,ngram-tree-8,divided,context,seer,drop-in,partial,observe"
TABLES = {
    "demo": Table("demo_cpu.json", "./run demo --compare-bus none ipc redis --json FILE", demo.table),
    "demo-one-engine": Table("demo_one_engine_cpu.json", "./run demo --engines 1 --json FILE", demo.table),
    "crowded": Table(
        "rollout_crowded_cpu.json",
        f"{BENCH} rollout --workload crowded --systems fcfs,drop-in --json FILE",
        rollout.table,
    ),
    "rollout-training": Table(
        "rollout_training_cpu.json",
        f"{BENCH} rollout --workload training --systems {TRAINING} --json FILE",
        rollout.table,
    ),
    "rollout-scarce": Table(
        "rollout_scarce_cpu.json",
        f"{BENCH} rollout --workload scarce --systems fcfs,ngram-chain-8,ngram-tree-8,seer,drop-in --json FILE",
        rollout.table,
    ),
    "grpo": Table(
        "grpo_tiny_cpu.json", "python examples/grpo_tiny/run.py --steps 20 --compare --json FILE", grpo.table
    ),
    "controller": Table("controller_cpu.json", f"{BENCH} controller --parts load --json FILE", controller.load),
    "chunks": Table("chunks_cpu.json", f"{BENCH} controller --parts chunks --json FILE", controller.chunks),
    "recovery": Table("recovery_cpu.json", f"{BENCH} controller --parts recovery --json FILE", controller.recovery),
    "draft-acceptance": Table("draft_cpu.json", DRAFT, draft.acceptance),
    "draft-cost": Table("draft_cpu.json", DRAFT, draft.cost),
    "sim": Table("sim.json", f"{BENCH} sim --json FILE --plots DIR", sim.table),
    "lengths": Table("lengths_cpu.json", f"{BENCH} lengths --data DIR --json FILE", lengths.estimates),
    "policy-pass": Table("policy_pass_cpu.json", "pytest bench/micro --benchmark-json FILE", lengths.passes),
    "bus-acceptance": Table("bus_cpu.json", BUS, bus.acceptance),
    "bus-load": Table("bus_load_cpu.json", f"{BENCH} bus --parts load --json FILE", bus.load),
    "bus-engines": Table("bus_engines_cpu.json", f"{BENCH} bus --parts engines --json FILE", bus.engines),
    "bus-steps": Table("bus_steps_cpu.json", f"{BENCH} bus --parts steps --json FILE", bus.steps),
    "observe": Table("observe_cpu.json", f"{BENCH} observe --json FILE", observe.table),
    "soak": Table("soak_cpu.json", f"{BENCH} soak --parts rounds --json FILE", soak.table),
    "soak-queue": Table("soak_queue_cpu.json", f"{BENCH} soak --parts queue --json FILE", soak.queue),
    "reality": Table("reality_cpu.json", f"{BENCH} reality --json FILE", reality.table),
}
