"""Stand-in engines in a process of their own: `python -m bench.controller.engines COUNT RATE IN_FLIGHT ...`.

Prints their URLs, one line of JSON, and serves until its standard input ends. Each line of it is answered by the CPU
seconds that this process has used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

from bench.controller.pacer import Pacer
from bench.controller.stub import Behaviour, Stub
from sglang_seer.rollout.timing import run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("rate", type=int)
    parser.add_argument("in_flight", type=int)
    parser.add_argument("events", type=int)
    parser.add_argument("mean_tokens", type=int)
    parser.add_argument("capacity_tokens", type=int)
    run(_serve(parser.parse_args()))


async def _serve(args: argparse.Namespace) -> None:
    behaviour = Behaviour(mean_tokens=args.mean_tokens, capacity_tokens=args.capacity_tokens, constant=True)
    pacer = Pacer(rate=args.rate, events=args.events, in_flight=args.in_flight)
    stubs = [Stub(behaviour, pacer=pacer) for _ in range(args.count)]
    print(json.dumps([await stub.start() for stub in stubs]), flush=True)
    pacing = asyncio.create_task(pacer.run())
    while await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        print(time.process_time(), flush=True)
    pacing.cancel()


if __name__ == "__main__":
    main()
