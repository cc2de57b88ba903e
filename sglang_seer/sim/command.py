"""`python -m sglang_seer simulate`: a rollout on a GPU cluster under one or more policies, without a GPU."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from sglang_seer.sim import acceptance, builtin, profile, workload
from sglang_seer.sim.cluster import Cluster, Failure, simulate
from sglang_seer.sim.policy import POLICIES, Policy, policy
from sglang_seer.sim.rollout import partial_rollout
from sglang_seer.sim.workload import Workload

DEFAULT_POLICIES = "verl,divided,seer,seer-spec,oracle"

# Fields of a workload that an option replaces.
CHANGEABLE = {
    "prompts": int,
    "group_size": int,
    "limit_tokens": int,
    "mean_tokens": int,
    "prompt_tokens": int,
    "sigma": float,
    "correlation": float,
    "runaway": float,
}


def main(argv: Sequence[str]) -> int:
    """Returns 0, or 2 for input that cannot be simulated, with one line that says why."""
    options = _parse(argv)
    try:
        shown = [_run(name, options) for name in options.policy.split(",")]
        if options.json:
            options.json.write_text(json.dumps({"runs": shown}, indent=1, allow_nan=False) + "\n")
    except (ValueError, OSError) as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2
    print(_table(shown))
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    names = "\n".join(f"  {name:<16} {one.meaning}" for name, one in POLICIES.items())
    parser = argparse.ArgumentParser(
        prog="python -m sglang_seer simulate",
        description=__doc__,
        epilog=f"policies:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workload", default="moonlight", help=f"{', '.join(workload.PAPER)}, or a JSON file (default moonlight)"
    )
    parser.add_argument("--trace", type=Path, help="JSON file of recorded lengths, instead of the workload's own")
    parser.add_argument(
        "--policy", default=DEFAULT_POLICIES, help=f"one or more, by comma (default {DEFAULT_POLICIES})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the lengths (default 0)")
    parser.add_argument("--gpus", type=int, help="GPUs of the cluster, instead of the workload's own")
    parser.add_argument("--gpu", default="H800", help=f"{', '.join(builtin.GPUS)} (default H800)")
    parser.add_argument("--profile", type=Path, help="JSON file of an instance, instead of a built-in one")
    parser.add_argument("--memory-fraction", type=float, help="of a GPU, for the engine, instead of the model's own")
    parser.add_argument(
        "--chunk-tokens", type=int, default=2048, help="longest chunk of divided rollout (default 2048)"
    )
    for name, kind in CHANGEABLE.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="instead of the workload's own")
    parser.add_argument(
        "--slow", action="append", default=[], metavar="INSTANCE=FACTOR", help="a straggler: its time times FACTOR"
    )
    parser.add_argument(
        "--fail",
        action="append",
        default=[],
        metavar="INSTANCE@SECONDS+REPAIR",
        help="the instance loses its memory at SECONDS and is back REPAIR seconds later",
    )
    parser.add_argument("--json", type=Path, help="where to write the numbers and a timeline of each run")
    return parser.parse_args(argv)


def _run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    chosen, load = policy(name), _workload(options)
    instance = (
        profile.read(options.profile)
        if options.profile
        else builtin.profile(load.model, options.gpu, memory_fraction=options.memory_fraction)
    )
    gpus = options.gpus or load.gpus
    if gpus % instance.gpus:
        raise ValueError(f"--gpus: got {gpus}, wanted a multiple of the {instance.gpus} of an instance")
    cluster = Cluster(
        profile=instance,
        instances=gpus // instance.gpus,
        chunk_tokens=options.chunk_tokens,
        acceptance=acceptance.paper(),
        slow=dict(_slow(text) for text in options.slow),
        failures=tuple(_failure(text) for text in options.fail),
    )
    return {"policy": name, "seed": options.seed, "gpus": gpus, "instance": instance.name} | _simulate(
        cluster, chosen, load, options
    )


def _simulate(cluster: Cluster, chosen: Policy, load: Workload, options: argparse.Namespace) -> dict[str, Any]:
    if chosen.issued > 1:
        if options.trace:
            raise ValueError("--trace: a partial rollout needs a workload to issue more prompts from")
        done = partial_rollout(cluster, chosen, load, options.seed)
        last = done.steps[-1].as_json()
        return last | {"tokens_per_s": done.tokens_per_s, "seconds": done.seconds_a_step}
    requests = workload.read_trace(options.trace) if options.trace else load.requests(options.seed)
    return simulate(cluster, chosen, requests).as_json()


def _workload(options: argparse.Namespace) -> Workload:
    named = workload.PAPER.get(options.workload)
    load = named or workload.read_workload(Path(options.workload))
    changes = {name: getattr(options, name) for name in CHANGEABLE if getattr(options, name) is not None}
    return msgspec.structs.replace(load, **changes)


def _slow(text: str) -> tuple[int, float]:
    place, _, factor = text.partition("=")
    try:
        return int(place), float(factor)
    except ValueError:
        raise ValueError(f"--slow: got {text!r}, wanted INSTANCE=FACTOR, as in 3=1.5") from None


def _failure(text: str) -> Failure:
    place, _, times = text.partition("@")
    at, _, repair = times.partition("+")
    try:
        numbers = int(place), float(at), float(repair)
    except ValueError:
        raise ValueError(f"--fail: got {text!r}, wanted INSTANCE@SECONDS+REPAIR, as in 3@600+120") from None
    return Failure(*numbers)


def _table(shown: Sequence[dict[str, Any]]) -> str:
    head = f"{'policy':<16} {'seconds':>8} {'tokens/s':>9} {'tail s':>7} {'retracted':>9} {'moved TB':>8} {'busy':>5}"
    lines = [
        f"{run['policy']:<16} {run['seconds']:>8.0f} {run['tokens_per_s']:>9,.0f} {run['tail_s']:>7.0f} "
        f"{run['retractions']:>9,} {run['migrated_bytes'] / 1e12:>8.2f} {run['busy_share']:>5.0%}"
        for run in shown
    ]
    first = shown[0]
    return "\n".join([f"{first['gpus']} GPUs, instances: {first['instance']}, seed {first['seed']}", head, *lines])
