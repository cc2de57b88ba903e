"""GRPO on the tiny reasoner with real engines on a CPU: `python examples/grpo_tiny/run.py --steps 20 --compare`.

Exit status: 0 all steps are the same on both sides, 1 a step differs, 2 wrong input or an engine that failed,
130 interrupted.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sglang_seer.demo.command import exit_status, positive
from sglang_seer.demo.compare import machine
from sglang_seer.demo.inputs import EXAMPLE, context_length, example_prompts, load_tokenizer
from sglang_seer.demo.plan import SEER, STOCK, Side, plan_requests, pool_tokens, shared_flags
from sglang_seer.demo.servers import pick_ports
from sglang_seer.demo.side import side_plans
from sglang_seer.report.picture import require_matplotlib
from sglang_seer.rollout.config import RolloutConfig

sys.path.insert(0, str(EXAMPLE))

from curves import draw
from steps import Step, figures
from training import Course, train

MODEL = EXAMPLE / "model"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Arguments; argparse ends the process with status 2 where they make no sense."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--compare", action="store_true", help="train with stock engines first, then with Seer")
    parser.add_argument("--steps", type=positive, default=20, help="updates of the weights")
    parser.add_argument("--num-prompts", type=positive, default=16, help="problems a step, new ones each time")
    parser.add_argument("--n", type=positive, default=8, help="samples a problem")
    parser.add_argument("--seed", type=int, default=0, help="of problems and samples")
    parser.add_argument("--learning-rate", type=learning_rate, default=1.5e-4, help="of AdamW")
    parser.add_argument("--max-new-tokens", type=positive, default=2048, help="limit of one response")
    parser.add_argument("--engines", type=positive, default=2, help="servers of a side")
    parser.add_argument("--chunk-tokens", type=positive, default=512, help="of Seer's divided rollout")
    parser.add_argument("--max-running-requests", type=positive, default=16, help="of each server")
    parser.add_argument("--kv-tokens", type=positive, help="KV slots of each server; default: a quarter of the demand")
    parser.add_argument("--picture", type=Path, default=Path("grpo-tiny.png"), help="where the curves go")
    parser.add_argument("--json", type=Path, help="keep figures and steps in this file")
    parser.add_argument("--start-timeout", type=positive, default=600, help="seconds a server may take to start")
    parser.add_argument("--timeout", type=positive, default=1800, help="seconds a rollout may take")
    return parser.parse_args(argv)


def learning_rate(text: str) -> float:
    """An argument's number, above 0 and below 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"wanted a number above 0 and below 1, saw {text!r}")
    return value


def main(argv: Sequence[str], *, stock: Side = STOCK, seer: Side = SEER) -> int:
    """Runs the trainings and returns the exit status. stock, seer: what the two sides' servers do not share."""
    args = parse(argv)
    return exit_status("grpo_tiny", lambda: run(args, stock, seer))


def run(args: argparse.Namespace, stock: Side, seer: Side) -> int:
    """The trainings, the table, the picture and the kept file."""
    require_matplotlib()
    for path in (args.picture, args.json):
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"{path}: wanted a file in a folder that is there")
    prompts = example_prompts(args.steps * args.num_prompts, args.seed)
    requests = plan_requests(
        prompts,
        load_tokenizer(MODEL),
        samples=args.n,
        seed=args.seed,
        limit=args.max_new_tokens,
        context=context_length(MODEL),
    )
    course = Course(
        prompts=prompts,
        requests=requests,
        size=args.num_prompts * args.n,
        learning_rate=args.learning_rate,
        start_timeout_s=args.start_timeout,
        timeout_s=args.timeout,
    )
    kv_tokens = args.kv_tokens or max(
        pool_tokens(requests[at : at + course.size], args.engines) for at in range(0, len(requests), course.size)
    )
    shared = shared_flags(MODEL, kv_tokens=kv_tokens, max_running=args.max_running_requests)
    folder = Path(tempfile.mkdtemp(prefix="grpo-tiny-"))
    sides: dict[str, list[Step]] = {}
    for side in (stock, seer) if args.compare else (seer,):
        # As in the demo: stock engines get whole groups in turn, over several of Seer's the controller decides.
        divided = side is seer and args.engines > 1
        plans = side_plans(side, pick_ports(None, args.engines), shared, folder, divided=divided)
        controller = RolloutConfig(chunk_tokens=args.chunk_tokens) if divided else None
        sides[side.label] = train(side.label, plans, course, folder, controller)
    shutil.rmtree(folder)
    numbers = figures(sides)
    print(table(numbers))
    draw(sides, args.picture)
    print(f"picture: {args.picture}")
    if args.json is not None:
        settings = {**vars(args), "kv_tokens": kv_tokens, "flags": shared[2:], "flags_seer": seer.flags}
        command = f"python examples/grpo_tiny/run.py --steps {args.steps}{' --compare' * args.compare} --json FILE"
        write(args.json, {**numbers, "command": command, "settings": settings, "machine": machine(), "sides": sides})
    if args.compare and numbers["steps_identical"] < numbers["steps"]:
        print(f"grpo_tiny: {numbers['steps'] - numbers['steps_identical']} steps differ", file=sys.stderr)
        return 1
    return 0


def table(numbers: Mapping[str, Any]) -> str:
    """What the figures say, in lines."""
    lines = [f"mean reward: {numbers['reward_first']:.3f} at first, {numbers['reward_last']:.3f} at last"]
    if numbers["rollout_ratio"] is not None:
        saved_s = numbers["rollout_s_stock"] - numbers["rollout_s"]
        lines += [
            "steps with the same samples, rewards, loss and weights: "
            f"{numbers['steps_identical']} of {numbers['steps']}",
            f"rollouts: {numbers['rollout_s_stock']:.1f} s with stock SGLang, {numbers['rollout_s']:.1f} s with Seer: "
            f"{numbers['rollout_ratio']:.2f}x, {saved_s:.1f} s saved",
            f"whole steps: {numbers['step_ratio']:.2f}x",
        ]
    lines.append(f"acceptance length (bonus included): {numbers['acceptance_length']:.2f}")
    return "\n".join(lines)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """As JSON. Raises ValueError for a file that cannot be written."""
    text = json.dumps(msgspec.to_builtins(content, enc_hook=str), indent=1)
    try:
        path.write_text(text + "\n")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; wanted a file to write the figures to") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
