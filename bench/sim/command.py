"""`python -m sglang_seer bench sim`: the paper's tables on simulated clusters, and sweeps past them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.rows import header, write_json
from bench.sim import figures, paper, plan, show
from bench.sim.cells import Cell, Outcome, run_all
from bench.sim.figures import Outcomes

PACKAGES = ("sglang-seer", "numpy", "msgspec")


def main(argv: Sequence[str]) -> int:
    """Runs the simulations; 0 when done, 2 for bad arguments or a file that cannot be written."""
    options = _parse(argv)
    main_cells: list[Cell] = []
    swept_cells: list[Cell] = []
    if options.part in ("all", "tables"):
        main_cells += plan.tables(options.quick, options.seeds) + plan.group_sizes(options.quick, options.seeds)
    if options.part in ("all", "sweeps"):
        swept_cells += plan.sweeps(options.quick, options.seeds)
    if options.part in ("all", "clusters"):
        swept_cells += plan.clusters(options.quick)
    done = _simulate(main_cells, options.jobs)
    swept_done = _simulate(swept_cells, options.jobs)
    outcomes, swept = Outcomes(done), Outcomes(swept_done)
    found = paper.verdicts(outcomes)
    if done:
        print(show.workloads_table(outcomes))
        print(show.paper_table(found))
    if swept_done:
        print(show.sweep_table(swept))
    try:
        if options.json:
            _write(options.json, options, outcomes, swept, found, [*done, *swept_done])
        if options.plots:
            from bench.sim import plots

            plots.draw(options.plots, outcomes, swept)
    except OSError as error:
        print(f"sim: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench sim", description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write header, rows and the paper's numbers beside ours")
    parser.add_argument("--plots", type=Path, help="folder for PNG pictures (needs matplotlib)")
    parser.add_argument("--quick", action="store_true", help="one seed, smaller workloads, fewer points")
    parser.add_argument("--seeds", type=int, default=plan.SEEDS, help=f"of the lengths (default {plan.SEEDS})")
    parser.add_argument("--part", choices=("all", "tables", "sweeps", "clusters"), default="all")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    options = parser.parse_args(argv)
    for name in ("jobs", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: wanted at least 1, saw {getattr(options, name)}")
    return options


def _simulate(cells: Sequence[Cell], jobs: int) -> list[Outcome]:
    started = time.perf_counter()
    outcomes = run_all(cells, jobs)
    if cells:
        print(f"sim: {len(cells)} rollouts in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return outcomes


def _write(
    path: Path,
    options: argparse.Namespace,
    outcomes: Outcomes,
    swept: Outcomes,
    found: Sequence[paper.Verdict],
    done: Sequence[Outcome],
) -> None:
    quick = " --quick" if options.quick else ""
    quick += f" --seeds {options.seeds}" if options.seeds != plan.SEEDS else ""
    part = f" --part {options.part}" if options.part != "all" else ""
    head = header(f"python -m sglang_seer bench sim --json FILE{quick}{part}", PACKAGES)
    beside = [
        {
            "claim": one.claim.name,
            "paper": [one.claim.low, one.claim.high],
            "here": one.values,
            "within_15_percent": one.near,
            "why": None if one.near else one.claim.why,
        }
        for one in found
    ]
    workloads = {one.cell.case: msgspec.to_builtins(one.cell.workload) for one in done}
    write_json(
        path, head, [*figures.rows(outcomes), *figures.rows(swept)], paper=beside, workloads=workloads, simulated=True
    )
