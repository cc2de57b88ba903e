"""`python -m sglang_seer bench controller`: what the controller costs, and how fast it recovers.

Parts: `load` (CPU time of one controller process against stand-in engines), `chunks` (what cutting into chunks costs on
a real CPU engine), `recovery` (how long until all goes on after one of two real CPU engines is killed).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.controller import chunks, load, recovery
from bench.rows import Row, header, table, write_json
from sglang_seer.demo.servers import ServerError
from sglang_seer.rollout import RolloutError
from sglang_seer.rollout.client import EngineError

PARTS = ("load", "chunks", "recovery")
PACKAGES = ("sglang-seer", "sglang", "aiohttp", "msgspec", "uvloop")


def main(argv: Sequence[str]) -> int:
    """Runs the parts; 0 when done, 1 where the wanted load was not there, 2 for bad arguments or engines that fail."""
    options = _parse(argv)
    rows: list[Row] = []
    short: list[str] = []
    more: dict[str, object] = {}
    try:
        for part in options.parts:
            if part == "load":
                found, short = load.measure(_load(options), options.repetitions)
                more |= {"chunk_tokens": options.chunk_tokens, "seconds": options.seconds, "load_not_reached": short}
            elif part == "chunks":
                found = chunks.measure(chunks.QUICK if options.quick else chunks.FULL, options.repetitions)
            else:
                found = recovery.measure(recovery.QUICK if options.quick else recovery.FULL, options.repetitions)
            print(table(part, ("what", "median", "least", "most"), [_line(row) for row in found]), flush=True)
            rows += found
        if options.json:
            head = header("python -m sglang_seer bench controller --parts " + ",".join(options.parts), PACKAGES)
            write_json(options.json, head, rows, load_average=list(os.getloadavg()), **more)
    except (ValueError, OSError, RuntimeError, ServerError, EngineError, RolloutError, TimeoutError) as error:
        print(f"controller: {error}", file=sys.stderr)
        return 2
    if short:
        print(f"controller: THE LOAD WAS NOT REACHED: {'; '.join(short)}", file=sys.stderr)
    return 1 if short else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sglang_seer bench controller",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", default="load", help=f"of {', '.join(PARTS)}, by comma (default load)")
    parser.add_argument("--json", type=Path, help="where to write header and rows")
    parser.add_argument("--repetitions", type=int, default=3, help="of each part (default 3)")
    parser.add_argument("--quick", action="store_true", help="each part small and once, to see that it runs")
    of_load = parser.add_argument_group("load").add_argument
    of_load("--engines", type=int, default=64, help="stand-in engines (default 64)")
    of_load("--in-flight", type=int, default=10_000, help="requests in flight (default 10,000)")
    of_load("--rate", type=int, default=2_000, help="chunks that end a second (default 2,000)")
    of_load("--chunk-tokens", type=int, default=512, help="tokens of a chunk (default 512)")
    of_load("--seconds", type=float, default=20.0, help="measured, after a warm-up (default 20)")
    options = parser.parse_args(argv)
    options.parts = options.parts.split(",")
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"--parts: wanted some of {', '.join(PARTS)}, saw {unknown[0]!r}")
    if options.quick:
        options.engines, options.in_flight, options.rate = 8, 400, 200
        options.seconds, options.repetitions = 3.0, 1
    for name in ("engines", "in_flight", "rate", "chunk_tokens", "repetitions", "seconds"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name.replace('_', '-')}: wanted more than 0, saw {getattr(options, name)}")
    return options


def _load(options: argparse.Namespace) -> load.Load:
    return load.Load(
        engines=options.engines,
        in_flight=options.in_flight,
        rate=options.rate,
        chunk_tokens=options.chunk_tokens,
        seconds=options.seconds,
    )


def _line(row: Row) -> list[str]:
    assert row.spread is not None
    values = (row.value, row.spread["min"], row.spread["max"])
    return [f"{row.system} {row.metric}, {row.unit}", *(f"{value:,.4g}" for value in values)]
