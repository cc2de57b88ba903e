"""`python -m sglang_seer demo`: the same rollout with stock SGLang and with Seer, on this machine's CPU.

Exit status: 0 all samples are identical, 1 a sample differs, 2 wrong input or a server that failed, 130 interrupted.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from sglang_seer.demo import buses, inputs
from sglang_seer.demo.compare import acceptance_length, compare, identical
from sglang_seer.demo.plan import SEER, STOCK, Side, plan_requests, pool_tokens, shared_flags
from sglang_seer.demo.servers import ServerError, pick_ports
from sglang_seer.demo.side import run_side, side_plans
from sglang_seer.report import kept
from sglang_seer.report.figures import figures
from sglang_seer.report.picture import draw, require_matplotlib
from sglang_seer.report.table import table
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.records import GenerateRequest
from sglang_seer.rollout.synchronous import Rollout

SHOWN_DIFFERENCES = 3


def parse(argv: list[str]) -> argparse.Namespace:
    """Arguments; argparse ends the process with status 2 where they make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m sglang_seer demo",
        description="The same rollout with stock SGLang and with Seer, one after the other, on this machine's CPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=inputs.EXAMPLE / "model", help="folder of the model")
    parser.add_argument("--prompts", type=Path, help='JSONL, a line {"prompt": text, "answer": text}; default: drawn')
    parser.add_argument("--num-prompts", type=positive, default=24, help="prompts to draw without --prompts")
    parser.add_argument("--n", type=positive, default=8, help="samples a prompt")
    parser.add_argument("--seed", type=int, default=0, help="seed of prompts and samples")
    parser.add_argument("--max-new-tokens", type=positive, default=2048, help="limit of one response")
    parser.add_argument("--engines", type=positive, default=2, help="servers of each side, all on this machine")
    parser.add_argument(
        "--chunk-tokens", type=positive, default=512, help="of Seer's divided rollout over several engines"
    )
    parser.add_argument(
        "--compare-bus",
        nargs="+",
        choices=buses.BUSES,
        default=[],
        metavar="BUS",
        help=f"Seer's rollout again with these ways to share text, for their acceptance: {', '.join(buses.BUSES)}",
    )
    parser.add_argument("--max-running-requests", type=positive, default=16, help="of each server")
    parser.add_argument("--kv-tokens", type=positive, help="KV slots of each server; default: a quarter of the demand")
    parser.add_argument("--port", type=int, help="of the first server, on the loopback address; default: any free one")
    parser.add_argument("--picture", type=Path, default=Path("seer-demo.png"), help="where the picture goes")
    parser.add_argument("--json", type=Path, help="keep every figure and every sample in this file")
    parser.add_argument("--start-timeout", type=positive, default=600, help="seconds a server may take to start")
    parser.add_argument("--timeout", type=positive, default=1800, help="seconds a rollout may take")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """An argument's number, 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a positive whole number, saw {text!r}")
    return int(text)


def main(argv: list[str], *, stock: Side = STOCK, seer: Side = SEER) -> int:
    """Runs the demo and returns its exit status. stock, seer: what the two servers do not share."""
    args = parse(argv)
    return exit_status("demo", lambda: run(args, stock, seer))


def exit_status(name: str, work: Callable[[], int]) -> int:
    """What `work` returns; 2 where it refuses its input or a server fails, 130 where it is interrupted or killed."""
    # A kill must stop the servers as Ctrl-C does.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return work()
    except (ValueError, ServerError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the servers are stopped", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(args: argparse.Namespace, stock: Side, seer: Side) -> int:
    """Both rollouts, the table, the picture and the kept file."""
    require_matplotlib()
    for path in (args.picture, args.json):
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"{path}: wanted a file in a folder that is there")
    buses.check(args.compare_bus, args.engines)
    ports = pick_ports(args.port, args.engines)
    prompts = inputs.read_prompts(args.prompts) if args.prompts else inputs.example_prompts(args.num_prompts, args.seed)
    context = inputs.context_length(args.model)
    reward = inputs.example_reward() if any(prompt.answer is not None for prompt in prompts) else None
    tokenizer = inputs.load_tokenizer(args.model)
    requests = plan_requests(
        prompts, tokenizer, samples=args.n, seed=args.seed, limit=args.max_new_tokens, context=context
    )
    kv_tokens = args.kv_tokens or pool_tokens(requests, args.engines)
    print(
        f"{len(prompts)} prompts x {args.n} samples, at most {args.max_new_tokens} tokens each; "
        f"{args.engines} engine{'s' * (args.engines > 1)} a side, "
        f"each with KV for {kv_tokens:,} tokens and at most {args.max_running_requests} running"
    )
    shared = shared_flags(args.model.absolute(), kv_tokens=kv_tokens, max_running=args.max_running_requests)
    folder = Path(tempfile.mkdtemp(prefix="seer-demo-"))
    # One engine schedules by itself; over several the controller decides who runs where, and they share text.
    divided = args.engines > 1

    def roll_out(side: Side, bus: str | None) -> Rollout:
        return _roll_out(args, side, bus, ports, shared, requests, folder)

    rollouts = {stock.label: roll_out(stock, None), seer.label: roll_out(seer, "ipc" if divided else None)}
    by_bus = {bus: rollouts[seer.label] if bus == "ipc" else roll_out(seer, bus) for bus in args.compare_bus}
    comparison = compare(
        prompts=prompts,
        requests=requests,
        stock=rollouts[stock.label],
        seer=rollouts[seer.label],
        tokenizer=tokenizer,
        reward=reward,
        settings={
            "engines": args.engines,
            "chunk_tokens": args.chunk_tokens if args.engines > 1 else None,
            "prompts": len(prompts),
            "samples_a_prompt": args.n,
            "seed": args.seed,
            "max_new_tokens": args.max_new_tokens,
            "kv_tokens": kv_tokens,
            "max_running_requests": args.max_running_requests,
            "flags": list(shared[2:]),
            "flags_seer": list(seer.flags),
        },
    )
    numbers = figures(comparison)
    if by_bus:
        numbers["acceptance_by_bus"] = {bus: acceptance_length(rollout) for bus, rollout in by_bus.items()}
        numbers["identical_by_bus"] = {
            bus: identical(rollout, rollouts[stock.label]) for bus, rollout in by_bus.items()
        }
    print("\n" + table(numbers, buses.TITLES))
    draw(comparison, args.picture)
    print(f"picture: {args.picture}")
    if args.json is not None:
        kept.write(args.json, comparison, numbers)
        print(f"every sample: {args.json}")
    different = [sample for sample in comparison.samples if not sample.identical]
    if different:
        for sample in different[:SHOWN_DIFFERENCES]:
            print(f"demo: {difference(sample)}", file=sys.stderr)
        print(f"demo: {len(different)} samples differ; the servers' logs are in {folder}", file=sys.stderr)
        return 1
    if any(count < len(requests) for count in numbers.get("identical_by_bus", {}).values()):
        print(f"demo: samples differ between buses; the servers' logs are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


def _roll_out(
    args: argparse.Namespace,
    side: Side,
    bus: str | None,
    ports: Sequence[int],
    flags: tuple[str, ...],
    requests: Sequence[GenerateRequest],
    folder: Path,
) -> Rollout:
    """One side on servers of its own; with a bus it is Seer's over several engines."""
    if bus not in (None, "ipc"):
        side = replace(side, label=f"{side.label}-{bus}")
    with buses.address(bus or "none", folder) as url:
        plans = side_plans(side, ports, flags, folder, divided=bus is not None, bus=url)
        return run_side(
            side.label,
            plans,
            requests,
            folder,
            controller=None if bus is None else RolloutConfig(chunk_tokens=args.chunk_tokens),
            start_timeout_s=args.start_timeout,
            timeout_s=args.timeout,
        )


def difference(sample: kept.Sample) -> str:
    """Where the two sides of a sample part."""
    ours = sample.seer_output_ids or []
    at = next((i for i, pair in enumerate(zip(sample.output_ids, ours, strict=False)) if pair[0] != pair[1]), None)
    where = f"from token {at} on" if at is not None else f"by length, {len(sample.output_ids)} and {len(ours)} tokens"
    return f"{sample.group} sample {sample.sample} (seed {sample.seed}) differs {where}"
