"""`python -m sglang_seer bench soak`: does it last?

Parts: `rounds` (rollouts on two CPU engines that share text; kill -9 and restarts, weight updates; each sample once and
that of an undisturbed rollout; memory over the calm second half, logs, files), `queue` (10,000 requests at once on one
CPU engine; all return, passes of its policy stay short, memory comes back).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.rows import Row, header, table, write_json
from bench.soak import queue, rounds
from sglang_seer.demo.servers import ServerError
from sglang_seer.rollout import RolloutError
from sglang_seer.rollout.client import EngineError

PARTS = ("rounds", "queue")
PACKAGES = ("sglang-seer", "sglang", "torch", "pyzmq", "aiohttp")


def main(argv: Sequence[str]) -> int:
    """0: it lasted. 1: something was seen that must not be. 2: bad arguments, or engines that do not start."""
    options = _parse(argv)
    rows: list[Row] = []
    faults: list[str] = []
    try:
        if "rounds" in options.parts:
            outcome = rounds.soak(options.minutes, options.seed)
            rows += rows_of_rounds(outcome, options.seed)
            faults += outcome.faults
        if "queue" in options.parts:
            queued = queue.queue(options.requests)
            rows += rows_of_queue(queued, options.requests)
            faults += queued.faults
    except ValueError as error:
        faults.append(str(error))
    except (OSError, ServerError, EngineError, RolloutError, TimeoutError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    print(
        table(
            "soak", ("what", "value"), [[f"{row.case}: {row.metric}", f"{row.value:,.4g} {row.unit}"] for row in rows]
        )
    )
    if options.json:
        head = header(f"python -m sglang_seer bench soak --parts {','.join(options.parts)}", PACKAGES)
        write_json(options.json, head, rows, faults=faults, minutes=options.minutes, seed=options.seed)
    for fault in faults:
        print(f"soak: FAULT: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sglang_seer bench soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", default="rounds,queue", help=f"of {', '.join(PARTS)}, by comma (default all)")
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="rounds, start of the engines included (default 30)"
    )
    parser.add_argument("--requests", type=int, default=10_000, help="queued at once (default 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the kills (default 0)")
    parser.add_argument("--json", type=Path, help="where to write header, rows and faults")
    options = parser.parse_args(argv)
    options.parts = options.parts.split(",")
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"--parts: wanted some of {', '.join(PARTS)}, saw {unknown[0]!r}")
    for name in ("minutes", "requests"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name}: wanted more than 0, saw {getattr(options, name)}")
    return options


def rows_of_rounds(seen: rounds.Outcome, seed: int) -> list[Row]:
    """What happened, and the slope of each process."""
    numbers = {
        "minutes": (seen.minutes, "min"),
        "rollouts": (seen.rollouts, "rollouts"),
        "samples_as_wanted": (seen.samples, "samples"),
        "tokens": (seen.tokens, "tokens"),
        "kills": (seen.kills, "kills"),
        "weight_updates": (seen.updates, "updates"),
        "chunks_broken": (seen.broken_chunks, "chunks"),
        "text_received": (seen.received_tokens, "tokens"),
    }
    case = f"two engines, seed {seed}"
    rows = [Row("soak", "seer", case, metric, float(value), unit) for metric, (value, unit) in numbers.items()]
    return rows + [
        Row("soak", "seer", one.process, "memory_slope", one.mib_a_minute, "MiB/min", {"minutes": one.minutes})
        for one in seen.growth
    ]


def rows_of_queue(seen: queue.Queued, requests: int) -> list[Row]:
    """As above, of the queue."""
    numbers = {
        "returned": (seen.returned, "requests"),
        "wanted": (seen.requests, "requests"),
        "tokens": (seen.tokens, "tokens"),
        "most_waiting": (seen.most_waiting, "requests"),
        "passes": (seen.passes, "passes"),
        "mean_pass": (1e3 * seen.mean_pass_s, "ms"),
        "longest_pass": (1e3 * seen.longest_pass_s, "ms"),
        "memory_left": (seen.left_mib, "MiB"),
        "kv_left": (seen.used_tokens_after, "tokens"),
    }
    case = f"one engine, {queue.WAVES} x {requests:,} requests at once"
    return [Row("soak", "seer", case, metric, float(value), unit) for metric, (value, unit) in numbers.items()]
