"""`python -m sglang_seer bench equality`: are Seer's samples stock SGLang's, with CUDA graphs and overlap and without?

The example's model, deterministic inference, seeded samples and greedy ones. On a GPU the kernels that verify a tree
are not those that decode a token, and logits can differ in their last bits; so a draw can turn where two tokens were
all but even. Each sample that differs is therefore shown with the margin by which its first other token lost, and so
are the samples that differ between two settings of stock SGLang itself. A difference with a margin above the tolerance
is a fault, as are drafts that were never accepted and graphs that were never used.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import torch

from bench.equality.margins import Difference, look
from bench.rollout.figures import measured
from bench.rollout.measure import ROLLOUT_TIMEOUT_S, START_TIMEOUT_S
from bench.rows import Row, header, table, write_json
from sglang_seer.demo import inputs
from sglang_seer.demo.plan import plan_requests, shared_environment
from sglang_seer.demo.servers import Server, ServerError, ServerPlan, pick_port
from sglang_seer.demo.side import Progress, connected, started
from sglang_seer.rollout.records import GenerateRequest
from sglang_seer.rollout.synchronous import Rollout

BENCH = "equality"
PACKAGES = ("sglang-seer", "sglang", "torch", "triton")
SETTINGS: dict[str, tuple[str, ...]] = {
    "graphs, overlap": (),
    "graphs": ("--disable-overlap-schedule",),
    "overlap": ("--disable-cuda-graph",),
    "neither": ("--disable-cuda-graph", "--disable-overlap-schedule"),
}
SIDES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "stock": ((), {"SGLANG_SEER": "off"}),
    "seer": (("--scheduler-policy", "seer"), {}),
}
# Nats. A draw turns where a score of two tokens is nearer than the logits' error.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}
GRAPH = re.compile(r"cuda graph: (True|False)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one engine made: rollouts by kind of sampling, and how many of its log's decode lines tell of a graph."""

    rollouts: dict[str, Rollout]
    graph_lines: int


def main(argv: Sequence[str]) -> int:
    """0 when all samples are stock's or differ by near ties, 1 for faults, 2 for bad arguments or engines that fail."""
    options = _parse(argv)
    folder = Path(tempfile.mkdtemp(prefix="seer-equality-"))
    try:
        kinds = _requests(options)
        rows, differences, faults = _compare(options, kinds, folder)
        if options.json:
            head = header("python -m sglang_seer bench equality --json FILE ...", PACKAGES)
            settings = {name: str(value) for name, value in vars(options).items() if name != "json"}
            write_json(
                options.json, head, rows, settings=settings, device=_device(), faults=faults,
                differences=[{"case": case, **asdict(one)} for case, one in differences],
                load_average=list(os.getloadavg()),
            )  # fmt: skip
    except (ValueError, OSError, ServerError) as error:
        print(f"equality: {error}", file=sys.stderr)
        return 2
    print(_table(rows))
    for case, one in differences:
        print(f"{case}: {one.group}/{one.sample} from token {one.place}, margin {one.margin}")
    for fault in faults:
        print(f"equality: {fault}; logs in {folder}", file=sys.stderr)
    if not faults:
        shutil.rmtree(folder)
    return 1 if faults else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    default = list(SETTINGS) if on_gpu else ["overlap"]
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench equality", description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write header, rows and differences")
    parser.add_argument("--settings", default="/".join(default), help=f"of {'/'.join(SETTINGS)}, by slash")
    parser.add_argument("--dtype", choices=TOLERANCES, default="bfloat16" if on_gpu else "float32", help="of the model")
    parser.add_argument("--tolerance", type=float, help="nats; greater margins are faults (default by the dtype)")
    parser.add_argument("--prompts", type=int, default=16, help="groups (default 16)")
    parser.add_argument("--n", type=int, default=8, help="seeded samples a group (default 8)")
    parser.add_argument("--limit", type=int, default=512, help="most tokens of a response (default 512)")
    parser.add_argument("--running", type=int, default=64, help="most requests at a time (default 64)")
    parser.add_argument("--model", type=Path, default=inputs.EXAMPLE / "model", help="folder of the model")
    parser.add_argument("--engine-flag", action="append", default=[], help="for every engine, such as --engine-flag=-x")
    options = parser.parse_args(argv)
    options.settings = options.settings.split("/")
    if unknown := [name for name in options.settings if name not in SETTINGS]:
        parser.error(f"--settings: wanted some of {'/'.join(SETTINGS)}, saw {unknown[0]!r}")
    for name in ("prompts", "n", "limit", "running"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: wanted at least 1, saw {getattr(options, name)}")
    options.tolerance = TOLERANCES[options.dtype] if options.tolerance is None else options.tolerance
    return options


def _requests(options: argparse.Namespace) -> dict[str, list[GenerateRequest]]:
    """By kind of sampling. Greedy siblings would all be the same: one a group."""
    sampled = plan_requests(
        inputs.example_prompts(options.prompts, 0),
        inputs.load_tokenizer(options.model),
        samples=options.n,
        seed=0,
        limit=options.limit,
        context=inputs.context_length(options.model),
    )
    greedy = [msgspec.structs.replace(one, temperature=0.0) for one in sampled if one.sample == 0]
    return {"sampled": sampled, "greedy": greedy}


def _compare(
    options: argparse.Namespace, kinds: dict[str, list[GenerateRequest]], folder: Path
) -> tuple[list[Row], list[tuple[str, Difference]], list[str]]:
    rows: list[Row] = []
    differences: list[tuple[str, Difference]] = []
    faults: list[str] = []
    first: Side | None = None
    for name in options.settings:
        with _engine(options, name, "stock", folder) as server:
            stock = _side(server, kinds)
            if first is not None:
                rows += _tell(
                    server, f"{name} against {options.settings[0]}", "stock", kinds, first, stock, differences
                )
        with _engine(options, name, "seer", folder) as server:
            seer = _side(server, kinds)
            told: list[tuple[str, Difference]] = []
            rows += _tell(server, name, "seer", kinds, stock, seer, told)
        first = first or stock
        differences += told
        faults += _faults(options, name, stock, seer, [one for _, one in told])
    return rows, differences, faults


def _faults(
    options: argparse.Namespace, name: str, stock: Side, seer: Side, differences: Sequence[Difference]
) -> list[str]:
    found = [
        f"{name}: {one.group}/{one.sample} differs from token {one.place} by a margin of {one.margin} nats, wanted at "
        f"most {options.tolerance}"
        for one in differences
        if one.margin is None or not abs(one.margin) <= options.tolerance
    ]
    if not any(measured(rollout)["acceptance_length"] > 1.0 for rollout in seer.rollouts.values()):
        found.append(f"{name}: no draft was accepted, so nothing was compared")
    if torch.cuda.is_available() and "graphs" in name:
        found += [
            f"{name}: the {label} engine's log tells of no step in a CUDA graph"
            for label, side in (("stock", stock), ("seer", seer))
            if not side.graph_lines
        ]
    return found


@contextmanager
def _engine(options: argparse.Namespace, setting: str, label: str, folder: Path) -> Iterator[Server]:
    flags, environment = SIDES[label]
    if not torch.cuda.is_available():
        environment = {**shared_environment(), **environment}
    # Prompts are short beside what follows them.
    pool = 2 * options.running * options.limit
    plan = ServerPlan(
        label=f"{label}-{setting.replace(', ', '-')}",
        port=pick_port(None),
        flags=(
            *("--model-path", str(options.model.absolute()), "--dtype", options.dtype, "--skip-tokenizer-init"),
            *("--max-running-requests", str(options.running), "--max-total-tokens", str(pool)),
            *("--enable-deterministic-inference", "--enable-metrics", "--decode-log-interval", "4"),
            *flags, *SETTINGS[setting], *options.engine_flag,
        ),
        environment={"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **environment},
    )  # fmt: skip
    with started(plan.label, [plan], folder, START_TIMEOUT_S) as (server,):
        yield server


def _side(server: Server, kinds: dict[str, list[GenerateRequest]]) -> Side:
    async def roll_out() -> dict[str, Rollout]:
        made = {}
        for kind, requests in kinds.items():
            async with connected([server], requests, None) as engines:
                progress = Progress(server.plan.label, len(requests))
                try:
                    made[kind] = await asyncio.wait_for(engines.roll_out(requests, progress), ROLLOUT_TIMEOUT_S)
                finally:
                    progress.close()
        return made

    try:
        rollouts = asyncio.run(roll_out())
    except TimeoutError as error:
        raise server.error(f"the rollout took longer than {ROLLOUT_TIMEOUT_S:.0f} s") from error
    lines = GRAPH.findall(server.log.read_text(errors="replace"))
    return Side(rollouts=rollouts, graph_lines=lines.count("True"))


def _tell(
    server: Server,
    case: str,
    system: str,
    kinds: dict[str, list[GenerateRequest]],
    wanted: Side,
    seen: Side,
    differences: list[tuple[str, Difference]],
) -> list[Row]:
    """Rows of one comparison; what differs goes to `differences`. The engine is asked about margins."""
    rows: list[Row] = []
    for kind, requests in kinds.items():
        made, base = seen.rollouts[kind], wanted.rollouts[kind]
        pairs = zip(requests, base.generations, made.generations, strict=True)
        found = [one for request, a, b in pairs if (one := look(server.plan.url, request, a, b))]
        name = f"{case}, {kind}"
        differences += [(f"{system}, {name}", one) for one in found]
        rows += [
            Row(BENCH, system, name, "samples_identical", len(requests) - len(found), "1"),
            Row(BENCH, system, name, "samples_total", len(requests), "1"),
            Row(BENCH, system, name, "acceptance_length", measured(made)["acceptance_length"], "tokens/step"),
            Row(BENCH, system, name, "graph_log_lines", seen.graph_lines, "1"),
        ]
        if margins := [abs(one.margin) for one in found if one.margin is not None]:
            rows.append(Row(BENCH, system, name, "largest_margin", max(margins), "nats"))
    return rows


def _table(rows: Sequence[Row]) -> str:
    value = {(row.system, row.case, row.metric): row.value for row in rows}
    lines = [
        [
            f"{system}, {case}",
            f"{value[system, case, 'samples_identical']:.0f} of {value[system, case, 'samples_total']:.0f}",
            f"{value[system, case, 'largest_margin']:.2g}" if (system, case, "largest_margin") in value else "-",
            f"{value[system, case, 'acceptance_length']:.2f}",
            f"{value[system, case, 'graph_log_lines']:.0f}",
        ]
        for system, case in dict.fromkeys((row.system, row.case) for row in rows)
    ]
    columns = ["against stock", "same", "largest margin, nats", "acceptance", "log lines with a graph"]
    return table("Samples", columns, lines)


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
