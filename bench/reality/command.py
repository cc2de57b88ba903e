"""`python -m sglang_seer bench reality`: the simulator against CPU engines.

For one engine and for two: each of some rollouts is compared with a simulation whose time of a step was fitted to the
others, so that a machine that is slower at times is so on both sides. Both, stock SGLang and Seer (order and admission,
no drafts), are fitted each to its own engines.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.reality import engines as real
from bench.reality import fit
from bench.rows import Row, header, median_row, table, write_json
from sglang_seer.demo import inputs
from sglang_seer.demo.plan import plan_requests, pool_tokens
from sglang_seer.demo.servers import ServerError
from sglang_seer.rollout.client import EngineError
from sglang_seer.rollout.records import GenerateRequest

PACKAGES = ("sglang-seer", "sglang", "torch", "numpy")
NEAR = 0.15


def main(argv: Sequence[str]) -> int:
    """0 when measured, 2 for bad arguments, engines that fail, or a file that cannot be written."""
    options = _parse(argv)
    try:
        rows, profiles = _measure(options)
        if options.json:
            head = header("python -m sglang_seer bench reality --json FILE", PACKAGES)
            write_json(options.json, head, rows, profiles=profiles, load_average=list(os.getloadavg()))
    except (ValueError, OSError, ServerError, EngineError, TimeoutError) as error:
        print(f"reality: {error}", file=sys.stderr)
        return 2
    print(_table(rows))
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench reality", description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write header, rows and the fitted profiles")
    parser.add_argument("--model", type=Path, default=inputs.EXAMPLE / "model", help="folder of the model")
    parser.add_argument("--engines", default="1,2", help="numbers of engines, by comma (default 1,2)")
    parser.add_argument("--repetitions", type=int, default=4, help="rollouts, each of other prompts (default 4)")
    parser.add_argument("--num-prompts", type=int, default=24, help="prompts of a rollout (default 24)")
    parser.add_argument("--n", type=int, default=8, help="samples a prompt (default 8)")
    parser.add_argument("--max-new-tokens", type=int, default=2048, help="limit of a response (default 2048)")
    parser.add_argument("--max-running-requests", type=int, default=64, help="of each engine (default 64)")
    options = parser.parse_args(argv)
    if options.repetitions < 2:
        parser.error(f"--repetitions: wanted one to compare and one to fit at least, saw {options.repetitions}")
    for name in ("num_prompts", "n", "max_new_tokens", "max_running_requests"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: wanted at least 1, saw {getattr(options, name)}")
    if not all(text in ("1", "2", "3", "4") for text in options.engines.split(",")):
        parser.error(f"--engines: wanted numbers from 1 to 4 by comma, saw {options.engines!r}")
    return options


def _requests(options: argparse.Namespace, seed: int) -> list[GenerateRequest]:
    return plan_requests(
        inputs.example_prompts(options.num_prompts, seed),
        inputs.load_tokenizer(options.model),
        samples=options.n,
        seed=seed,
        limit=options.max_new_tokens,
        context=inputs.context_length(options.model),
    )


def _measure(options: argparse.Namespace) -> tuple[list[Row], dict[str, dict[str, float]]]:
    plans = [_requests(options, seed) for seed in range(options.repetitions)]
    rows: list[Row] = []
    profiles: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="seer-reality-") as folder:
        for engines in map(int, options.engines.split(",")):
            case = f"{engines} engine" + ("s" if engines > 1 else "")
            real_s: dict[str, list[float]] = {}
            sim_s: dict[str, list[float]] = {}
            for side in real.SIDES:
                print(f"reality: {case}, {side}", file=sys.stderr, flush=True)
                made = real.run(
                    side,
                    plans,
                    engines=engines,
                    model=options.model.absolute(),
                    # So many engines share the demand.
                    kv_tokens=max(pool_tokens(plan, engines) for plan in plans) + options.max_new_tokens // engines,
                    max_running=options.max_running_requests,
                    folder=Path(folder),
                )
                real_s[side] = [fit.makespan_s(rollouts) for rollouts in made]
                sim_s[side] = []
                for number, (plan, rollouts) in enumerate(zip(plans, made, strict=True)):
                    others = [one for place, several in enumerate(made) if place != number for one in several]
                    profile = fit.profile_of(others, max_running=options.max_running_requests)
                    profiles[f"{case}, {side}, all but {number + 1}"] = fit.describe(profile)
                    order = [(request.group, request.sample) for request in plan]
                    done = fit.merged(rollouts, order)
                    result = fit.simulated(profile, done, options.max_new_tokens, engines=engines, side=side)
                    sim_s[side].append(result.seconds)
                rows += _rows(case, side, real_s[side], sim_s[side])
            rows.append(_order(case, real_s, sim_s))
    return rows, profiles


def _rows(case: str, side: str, real_s: Sequence[float], sim_s: Sequence[float]) -> list[Row]:
    shares = [simulated / measured for measured, simulated in zip(real_s, sim_s, strict=True)]
    return [
        median_row("reality", side, case, "seconds", real_s, "s"),
        median_row("reality", side, case, "simulated_seconds", sim_s, "s"),
        median_row("reality", side, case, "simulated_over_real", shares, "ratio"),
    ]


def _order(case: str, real_s: dict[str, list[float]], sim_s: dict[str, list[float]]) -> Row:
    """1 where the simulation names the same side as the faster one, by the medians over the rollouts."""
    faster = [min(seconds, key=lambda side: median(seconds[side])) for seconds in (real_s, sim_s)]
    return Row("reality", "both", case, "same_order", float(faster[0] == faster[1]), "1")


def _table(rows: Sequence[Row]) -> str:
    value = {(row.case, row.system, row.metric): row for row in rows}
    lines = []
    for case, side in dict.fromkeys((row.case, row.system) for row in rows if row.system != "both"):
        real_s, sim_s, share = (
            value[case, side, metric].value for metric in ("seconds", "simulated_seconds", "simulated_over_real")
        )
        near = "yes" if abs(share - 1.0) <= NEAR else "no"
        same = "yes" if value[case, "both", "same_order"].value else "no"
        lines.append([f"{case}, {side}", f"{real_s:.1f}", f"{sim_s:.1f}", f"{share:.2f}", near, same])
    head = ["", "engines s", "simulated s", "simulated / real", "within 15%", "same order"]
    return table("Makespans (medians over rollouts)", head, lines)
