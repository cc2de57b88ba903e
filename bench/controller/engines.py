"""Stand-in engines in a process of their own: `python -m bench.controller.engines COUNT SECONDS_A_TOKEN ...`.

Prints their URLs, one line of JSON, and serves until its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from bench.controller.stub import Behaviour, Stub
from sglang_seer.rollout.timing import run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("seconds_per_token", type=float)
    parser.add_argument("mean_tokens", type=int)
    parser.add_argument("capacity_tokens", type=int)
    args = parser.parse_args()
    run(_serve(args))


async def _serve(args: argparse.Namespace) -> None:
    behaviour = Behaviour(
        seconds_per_token=args.seconds_per_token,
        mean_tokens=args.mean_tokens,
        capacity_tokens=args.capacity_tokens,
        constant=True,
    )
    stubs = [Stub(behaviour) for _ in range(args.count)]
    print(json.dumps([await stub.start() for stub in stubs]), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    main()
