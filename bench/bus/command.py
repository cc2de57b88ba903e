"""`python -m sglang_seer bench bus`: what the token bus costs, how late text is, and what sharing is worth."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.bus import acceptance, engines, load, steps
from bench.draft import synthetic, tokens, traces
from bench.paired import quartiles_row
from bench.rows import Row, header, median_row, table, write_json
from sglang_seer.demo.buses import address
from sglang_seer.demo.redis_server import programs

BENCH = "bus"
PARTS = ("load", "acceptance", "engines", "steps")
SPLITS = (2, 4, 8)
# What seven other engines of 64 requests write, each 40 tokens a second; and a large cluster.
TRAFFIC = (steps.Traffic("17,920 tokens/s", 17_920.0), steps.Traffic("100,000 tokens/s", 100_000.0))
TOKENIZER_CHARS = 8_000_000
# At 40 tokens a second and two tokens a step, a step takes 50 ms.
STEPS_OF_100_MS = 2
SYSTEMS = {"none": None, "bus at 100 ms": STEPS_OF_100_MS, "bus at 200 ms": 2 * STEPS_OF_100_MS, "perfect": 0}
MEASURES = ("cpu_share", "latency_ms_p50", "latency_ms_p99", "bytes_per_token")
UNITS = {"cpu_share": "cores", "latency_ms_p50": "ms", "latency_ms_p99": "ms", "bytes_per_token": "bytes"}


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark; 0 when done, 1 where engines gave other samples, 2 for bad arguments or data."""
    options = _parse(argv)
    try:
        sets = traces.read_folder(options.data) if options.data else []
    except (ValueError, OSError) as error:
        print(f"bus: {error}", file=sys.stderr)
        return 2
    if not programs():
        print("bus: neither redis-server nor valkey-server is installed: Redis is left out", file=sys.stderr)
    rows: list[Row] = []
    if "load" in options.parts:
        rows += _loads(options.quick, options.repetitions)
    if "acceptance" in options.parts:
        rows += _acceptance(sets, 5_000 if options.quick else 10_000)
    if "engines" in options.parts:
        try:
            rows += _engines(options.quick, options.repetitions)
        except RuntimeError as error:
            print(f"bus: {error}", file=sys.stderr)
            return 1
    if "steps" in options.parts:
        try:
            rows += _steps(options.quick)
        except RuntimeError as error:
            print(f"bus: {error}", file=sys.stderr)
            return 1
    _show(rows)
    if options.json:
        parts = "" if set(options.parts) == set(PARTS) else f" --parts {' '.join(options.parts)}"
        command = f"python -m sglang_seer bench bus{parts}" + (" --quick" if options.quick else "")
        packages = ("sglang-seer", "sglang", "numpy", "pyzmq", "redis")
        write_json(options.json, header(command, packages), rows)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench bus", description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write header and rows")
    parser.add_argument("--data", type=Path, help="folder of trace files (*.jsonl.zst); without it, generated text")
    parser.add_argument("--quick", action="store_true", help="shorter loads, less text, fewer samples")
    parser.add_argument("--repetitions", type=int, default=3, help="of each load and rollout (default 3)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default all)")
    options = parser.parse_args(argv)
    if options.repetitions < 1:
        parser.error(f"--repetitions: wanted at least 1, saw {options.repetitions}")
    return options


def loads(quick: bool) -> list[load.Load]:
    """Eight engines of 64 requests; and 100,000 tokens a second from one engine to another."""
    warm_s, seconds = (1.0, 2.0) if quick else (2.0, 8.0)
    return [
        load.Load("8 engines x 64 x 40/s", 8, 0, 64, 64, 40.0, warm_s=warm_s, seconds=seconds),
        load.Load("100,000 tokens/s", 1, 1, 320, 2500, 40.0, warm_s=warm_s, seconds=seconds),
    ]


def _loads(quick: bool, repetitions: int) -> list[Row]:
    values: dict[tuple[str, str, str], list[float]] = {}
    for case in loads(quick):
        # In turn, so that what else the machine does falls on both.
        for _ in range(repetitions):
            for system in (one for one in engines.buses() if one != "none"):
                print(f"bus: {case.name} over {system}", file=sys.stderr, flush=True)
                with tempfile.TemporaryDirectory() as folder, address(system, Path(folder)) as url:
                    seen = load.run(case, url)
                for name, value in _measured(case, seen).items():
                    values.setdefault((system, case.name, name), []).append(value)
    return [
        median_row(BENCH, system, case, metric, found, next(u for m, u in UNITS.items() if metric.startswith(m)))
        for (system, case, metric), found in values.items()
    ]


def _measured(case: load.Load, seen: Sequence[load.Seen]) -> dict[str, float]:
    """CPU of all that an engine does for sharing; of writers and readers apart where they are."""
    late_ms = load.latency_ms(seen)
    sent = [one.status for one in seen if one.status["sent_tokens"]]
    found = {
        "latency_ms_p50": float(np.percentile(late_ms, 50)),
        "latency_ms_p99": float(np.percentile(late_ms, 99)),
        "bytes_per_token": sum(one["sent_bytes"] for one in sent) / sum(one["sent_tokens"] for one in sent),
    }
    sides = {"write": seen[: case.writers], "read": seen[case.writers :]} if case.readers else {"both": seen}
    for side, members in sides.items():
        for part in ("bus", "publish", "take", "index"):
            shares = [one.cpu[part] / one.cpu["seconds"] for one in members]
            found[f"cpu_share_{side}_{part}"] = sum(shares) / len(shares)
        parts = ("bus", "publish", "take", "index")
        found[f"cpu_share_{side}"] = sum(found[f"cpu_share_{side}_{part}"] for part in parts)
    return found


def _acceptance(sets: Sequence[traces.TraceSet], wanted: int) -> list[Row]:
    count = max(wanted // (16 * synthetic.MEAN_TOKENS), 1)
    made = synthetic.groups(count=count, siblings=16, mean_tokens=synthetic.MEAN_TOKENS)
    texts = {"generated": (made, synthetic.VOCAB_SIZE)}
    if sets:
        tokenizer = tokens.tokenizer_of(sets, most_chars=TOKENIZER_CHARS)
        for one in sets:
            groups = tokens.groups_of(one, tokenizer, tokens=wanted, siblings=16, fewest=2)
            if groups:
                texts[one.name] = groups, tokens.VOCAB_SIZE
    rows = []
    for name, (groups, vocab_size) in texts.items():
        print(f"bus: acceptance on {name}", file=sys.stderr, flush=True)
        for split in SPLITS:
            case = f"{name}, {split} engines"
            found = {
                system: acceptance.acceptance(groups, engines=split, lag_steps=lag, vocab_size=vocab_size)
                for system, lag in SYSTEMS.items()
            }
            for system, value in found.items():
                rows.append(Row(BENCH, system, case, "acceptance", value, "tokens/step"))
                rows.append(Row(BENCH, system, case, "acceptance_over_perfect", value / found["perfect"], "1"))
    return rows


def _engines(quick: bool, repetitions: int) -> list[Row]:
    """Acceptance of engines that draft all they can.

    Raises RuntimeError where a sample depends on the bus, or where a bus carried nothing: the rest would say nothing.
    """
    rollout = engines.Rollout(prompts=4, samples=4) if quick else engines.Rollout(prompts=24, samples=8)
    case = f"2 engines, {rollout.prompts} x {rollout.samples}"
    rows: list[Row] = []
    print("bus: two engines a bus, drafting", file=sys.stderr, flush=True)
    outcomes = engines.run(rollout, repetitions)
    wanted = outcomes["none"][0].tokens
    for bus, found in outcomes.items():
        different = sum(mine != theirs for one in found for mine, theirs in zip(one.tokens, wanted, strict=True))
        if different:
            raise RuntimeError(f"bus {bus}: {different} samples differ from those of engines that share nothing")
        if bus != "none" and not all(one.received_tokens for one in found):
            raise RuntimeError(f"bus {bus}: a rollout in which no text crossed")
        rows.append(median_row(BENCH, bus, case, "acceptance", [one.acceptance for one in found], "tokens/step"))
        rows.append(Row(BENCH, bus, case, "same_samples", 1.0, "1"))
    return rows


def _steps(quick: bool) -> list[Row]:
    """What a decode step takes while siblings elsewhere write. Raises RuntimeError where nothing can be compared."""
    rows: list[Row] = []
    for bus in (one for one in engines.buses() if one != "none"):
        for traffic in TRAFFIC:
            print(f"bus: steps beside {traffic.name} over {bus}", file=sys.stderr, flush=True)
            found = steps.run(bus, traffic, rounds=1 if quick else 3)
            rows.append(Row(BENCH, bus, traffic.name, "step_ms", found.step_ms, "ms"))
            rows.append(quartiles_row(BENCH, bus, traffic.name, "step_over_quiet", found.wall))
            rows.append(quartiles_row(BENCH, bus, traffic.name, "step_cpu_over_quiet", found.cpu))
            rows.append(Row(BENCH, bus, traffic.name, "sharing_us", found.own_us, "us"))
    return rows


def _show(rows: Sequence[Row]) -> None:
    value = {(row.system, row.case, row.metric): row.value for row in rows}
    timed = [row for row in rows if row.metric.startswith(MEASURES)]
    if timed:
        lines = [[row.case, row.system, row.metric, f"{row.value:.3f}"] for row in timed]
        print(table("Cost and latency of the bus", ["load", "bus", "metric", "median"], lines))
    cases = list(dict.fromkeys(row.case for row in rows if row.metric == "acceptance_over_perfect"))
    if cases:
        lines = [
            [
                case,
                *(f"{value[one, case, 'acceptance']:.3f}" for one in SYSTEMS),
                f"{value['bus at 100 ms', case, 'acceptance_over_perfect']:.4f}",
            ]
            for case in cases
        ]
        print(table("Acceptance, bonus included", ["text", *SYSTEMS, "100 ms / perfect"], lines))
    real = [row for row in rows if row.metric == "same_samples"]
    if real:
        lines = [
            [row.system, f"{value[row.system, row.case, 'acceptance']:.3f}", f"{100 * row.value:.1f}%"] for row in real
        ]
        print(table(f"Real engines: {real[0].case} samples", ["bus", "acceptance", "samples as without"], lines))
    beside = [row for row in rows if row.metric == "step_ms"]
    if beside:
        lines = [
            [
                row.case,
                row.system,
                f"{row.value:.2f}",
                f"{value[row.system, row.case, 'step_over_quiet']:.4f}",
                f"{value[row.system, row.case, 'step_cpu_over_quiet']:.4f}",
            ]
            for row in beside
        ]
        columns = ["written elsewhere", "bus", "ms a step", "beside it over quiet", "CPU time"]
        print(table("A decode step", columns, lines))
