"""`python -m sglang_seer bench rollout`: one rollout under stock SGLang's settings and under Seer's techniques.

Repetitions alternate: each runs every system once, in turn forwards and backwards, on engines started for it, with
prompts and seeds of its own. Nothing is reported unless every sample that must be plain decoding's is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.rollout import figures
from bench.rollout.measure import Engines, repeated
from bench.rollout.systems import ROLLOUT_DEFAULT, SYSTEMS, WORKLOADS, parsed
from bench.rows import Row, header, table, write_json
from sglang_seer.demo import inputs
from sglang_seer.demo.plan import plan_requests, pool_tokens, shared_environment, shared_flags
from sglang_seer.demo.servers import ServerError
from sglang_seer.rollout.records import GenerateRequest

# Of prompts beyond those that are wanted; repetitions are fewer.
OVER_ISSUED_SEED = 1000
PACKAGES = ("sglang-seer", "sglang", "sglang-seer-cpu", "torch", "transformers")
NOT_SHOWN = (
    "One small model on CPU cores, where a verification step is cheap against SGLang's own work a step: it says that "
    "samples are equal and what scheduling and drafts do there, not what a GPU gives. NGRAM samples by another law of "
    "random numbers, so its responses have other lengths. Partial rollout is one iteration: it returns the samples "
    "that end first, of whatever prompts, so shorter ones than were asked for (length over fcfs), and aborts the "
    "others; a trainer that carries those over begins its next iteration with the long ones, and one that needs whole "
    "groups waits longer."
)


def main(argv: Sequence[str]) -> int:
    """0 when measured, 1 where a sample differs that must not, 2 for bad arguments or an engine that fails."""
    options = _parse(argv)
    folder = Path(tempfile.mkdtemp(prefix="seer-rollout-"))
    try:
        repetitions = [_repetition(options, seed) for seed in range(options.repetitions)]
        over = any(SYSTEMS[name].issued > 1 for name in options.systems)
        more = [_more(options, seed) for seed in range(options.repetitions)] if over else ()
        rollouts = repeated(options.systems, repetitions, folder, more)
        different = figures.differing(rollouts)
        if different:
            print(f"rollout: samples differ from stock SGLang's: {different}; logs in {folder}", file=sys.stderr)
            return 1
        rows = figures.rows(rollouts, options.workload)
        if options.json:
            head = header(f"python -m sglang_seer bench rollout --json FILE{_changed(options)}", PACKAGES)
            write_json(options.json, head, rows, not_shown=NOT_SHOWN, load_average=list(os.getloadavg()))
        if options.plots:
            from bench.rollout import plots

            plots.draw(options.plots, rows, options.workload)
    except (ValueError, OSError, ServerError) as error:
        print(f"rollout: {error}", file=sys.stderr)
        return 2
    shutil.rmtree(folder)
    print(systems_table(WORKLOADS[options.workload].what, rows))
    print(NOT_SHOWN)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sglang_seer bench rollout",
        description=__doc__,
        epilog="systems: " + "; ".join(f"{name}: {system.what}" for name, system in SYSTEMS.items()),
    )
    parser.add_argument("--json", type=Path, help="where to write header and rows")
    parser.add_argument("--plots", type=Path, help="folder for a PNG picture (needs matplotlib)")
    parser.add_argument("--workload", choices=WORKLOADS, default="demo", help="what is rolled out (default demo)")
    default = ",".join(ROLLOUT_DEFAULT)
    parser.add_argument("--systems", default=default, help=f"by comma (default {default})")
    parser.add_argument("--repetitions", type=int, default=3, help="of every system (default 3)")
    parser.add_argument("--model", type=Path, default=inputs.EXAMPLE / "model", help="folder of the model")
    options = parser.parse_args(argv)
    if options.repetitions < 1:
        parser.error(f"--repetitions: wanted at least 1, saw {options.repetitions}")
    try:
        options.systems = parsed(options.systems)
    except ValueError as error:
        parser.error(str(error))
    return options


def _changed(options: argparse.Namespace) -> str:
    """Arguments that are not the defaults, for the header."""
    text = "" if options.workload == "demo" else f" --workload {options.workload}"
    text += "" if options.systems == list(ROLLOUT_DEFAULT) else f" --systems {','.join(options.systems)}"
    return text + ("" if options.repetitions == 3 else f" --repetitions {options.repetitions}")


def _repetition(options: argparse.Namespace, seed: int) -> tuple[Engines, list[GenerateRequest]]:
    """Prompts and seeds of samples follow `seed`."""
    workload, model = WORKLOADS[options.workload], options.model.absolute()
    requests = _requests(options, seed)
    kv_tokens = workload.kv_tokens or pool_tokens(requests, workload.engines)
    engines = Engines(
        count=workload.engines,
        flags=shared_flags(model, kv_tokens=kv_tokens, max_running=workload.running),
        environment={**shared_environment(), **workload.environment},
        chunk_tokens=workload.chunk_tokens,
    )
    return engines, requests


def _requests(options: argparse.Namespace, seed: int) -> list[GenerateRequest]:
    workload, model = WORKLOADS[options.workload], options.model.absolute()
    prompts = inputs.example_prompts(workload.drawn or workload.prompts, seed)
    return plan_requests(
        sorted(prompts, key=lambda one: len(one.prompt))[-workload.prompts :] if workload.drawn else prompts,
        inputs.load_tokenizer(model),
        samples=workload.samples,
        seed=seed,
        limit=workload.limit,
        context=inputs.context_length(model),
    )


def _more(options: argparse.Namespace, seed: int) -> list[GenerateRequest]:
    """As many requests of other prompts."""
    others = _requests(options, OVER_ISSUED_SEED + seed)
    return [msgspec.structs.replace(request, group=f"more-{request.group}") for request in others]


def systems_table(title: str, rows: Sequence[Row]) -> str:
    """A line a system."""
    value = {(row.system, row.metric): row for row in rows}

    def shown(system: str, metric: str, digits: int) -> str:
        row = value[system, metric]
        spread = row.spread or {"min": row.value, "max": row.value}
        return f"{row.value:.{digits}f} ({spread['min']:.{digits}f}-{spread['max']:.{digits}f})"

    lines = [
        [
            SYSTEMS[name].what,
            shown(name, "throughput", 0),
            shown(name, "throughput_over_fcfs", 2),
            shown(name, "throughput_over_best_stock", 2),
            shown(name, "tail_over_fcfs", 2),
            f"{value[name, 'mean_length_over_fcfs'].value:.2f}",
            f"{value[name, 'acceptance_length'].value:.2f}",
            f"{value[name, 'retractions'].value:.0f}",
            f"{value[name, 'samples_identical'].value:.0f} of {value[name, 'samples_total'].value:.0f}",
        ]
        for name in dict.fromkeys(row.system for row in rows)
    ]
    columns = [
        "",
        "tokens/s",
        "over fcfs",
        "over best stock",
        "tail over fcfs",
        "length over fcfs",
        "acceptance",
        "retractions",
        "same",
    ]
    return table(f"{title}: medians (lowest to highest)", columns, lines)
