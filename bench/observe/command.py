"""`python -m sglang_seer bench observe`: what the plugin costs a step where it is off, and where it only watches.

One stock engine a case. Seer's hooks are taken out of its scheduler in every other second, and the seconds with them
are compared with those without on either side.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.bus import engines
from bench.observe.inside import spans
from bench.paired import Step, over_quiet, own_us, quartiles_row
from bench.rows import Row, header, table, write_json
from sglang_seer.demo.servers import Server, ServerError, ServerPlan, pick_port, serve

BENCH = "observe"
START_TIMEOUT_S = 240.0
SITE = "from bench.observe import inside\ninside.install()\n"
PACKAGES = ("sglang-seer", "sglang", "sglang-seer-cpu", "torch")
NOT_SHOWN = (
    "One small model on CPU cores and batches of one size, with a queue behind them; steps in which requests join or "
    "end are not compared. What is noted a step grows with the batch, so a GPU that takes fewer milliseconds for as "
    "many requests gives a larger share to it: the microseconds are what carries over. What costs more is done for a "
    "fixed share of the time."
)


@dataclass(frozen=True, slots=True)
class Case:
    """mode: SGLANG_SEER. flags: of the engine, besides."""

    name: str
    mode: str
    flags: tuple[str, ...] = ()


CASES = (Case("off", "off"), Case("observe", "observe"), Case("observe, metrics on", "observe", ("--enable-metrics",)))


WHOLE = engines.Rollout(prompts=8, samples=8, limit=1000, running=32)
QUICK = engines.Rollout(prompts=2, samples=4, limit=500, running=4)


def main(argv: Sequence[str]) -> int:
    """0 when measured, 1 where an engine fails or nothing can be compared, 2 for bad arguments."""
    options = _parse(argv)
    rows: list[Row] = []
    try:
        for case in CASES:
            rows += measure(case, QUICK if options.quick else WHOLE)
    except (ServerError, RuntimeError) as error:
        print(f"observe: {error}", file=sys.stderr)
        return 1
    if options.json:
        command = "python -m sglang_seer bench observe" + (" --quick" if options.quick else "")
        write_json(options.json, header(command, PACKAGES), rows, not_shown=NOT_SHOWN)
    print(table("Steps with Seer's hooks over steps without", *shown(rows)))
    print(NOT_SHOWN)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench observe", description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write header and rows")
    parser.add_argument("--quick", action="store_true", help="few short requests, to see that it works")
    return parser.parse_args(argv)


def measure(case: Case, work: engines.Rollout) -> list[Row]:
    """Raises ServerError where the engine fails, RuntimeError where no second can be compared."""
    print(f"observe: {case.name}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "sitecustomize.py").write_text(SITE)
        plan = ServerPlan(
            label="observe",
            port=pick_port(None),
            flags=(*engines.stock_flags(work), *case.flags),
            environment={**engines.environment(folder), "SGLANG_SEER": case.mode},
        )
        with serve(plan, folder) as server:
            server.wait_until_ready(START_TIMEOUT_S)
            _roll_out(server, work)
            status = engines.said(server)
    return rows_of(case, status, work)


def rows_of(case: Case, status: dict[str, Any], work: engines.Rollout) -> list[Row]:
    """From what the engine told. Raises RuntimeError where the mode is another, or no second can be compared."""
    if status["mode"] != case.mode or not status["bench"]["hooks"]:
        raise RuntimeError(f"{case.name}: the engine is in mode {status['mode']}, hooks {status['bench']['hooks']}")
    steps = [Step(*numbers) for numbers in status["bench"]["steps"]]
    full = [step for step in steps if step.batch == work.running]
    if not full:
        raise RuntimeError(f"{case.name}: no step had all {work.running} requests")
    found = spans(full[0].ended_s, full[-1].ended_s)
    wall, cpu = (over_quiet(full, found, by, typical=fmean) for by in ("wall_s", "cpu_s"))
    if not wall:
        raise RuntimeError(f"{case.name}: no second with hooks has one without on either side")
    step_s = fmean(step.wall_s for step in full)
    hook_us = own_us(full, found)
    return [
        Row(BENCH, "seer", case.name, "step_ms", 1e3 * step_s, "ms"),
        quartiles_row(BENCH, "seer", case.name, "step_over_stock", wall),
        quartiles_row(BENCH, "seer", case.name, "step_cpu_over_stock", cpu),
        Row(BENCH, "seer", case.name, "hook_us", hook_us, "us"),
        Row(BENCH, "seer", case.name, "hook_share", 1e-6 * hook_us / step_s, "1"),
    ]


def _roll_out(server: Server, work: engines.Rollout) -> None:
    """All requests at once, each exactly as long as its limit."""
    prompts = engines.prompts(work.prompts)
    count = work.prompts * work.samples

    def generate(number: int) -> Any:
        sampling = {"temperature": 1.0, "max_new_tokens": work.limit, "ignore_eos": True, "sampling_seed": number}
        body = {"input_ids": prompts[number // work.samples], "sampling_params": sampling}
        return engines.post(server, "generate", body)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(generate, range(count)))


def shown(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Columns and lines for people."""
    value = {(row.case, row.metric): row for row in rows}

    def ranged(case: str, metric: str) -> str:
        spread = value[case, metric].spread or {}
        return f"{value[case, metric].value:.3f} ({spread['lower']:.3f} to {spread['upper']:.3f})"

    lines = [
        [
            case,
            f"{value[case, 'step_ms'].value:.1f}",
            ranged(case, "step_over_stock"),
            ranged(case, "step_cpu_over_stock"),
            f"{value[case, 'hook_us'].value:.1f}",
            f"{100 * value[case, 'hook_share'].value:.2f}%",
        ]
        for case in dict.fromkeys(row.case for row in rows)
    ]
    columns = ["mode", "ms a step", "step over stock (quartiles)", "its CPU time", "us in the hook a step", "its share"]
    return columns, lines
