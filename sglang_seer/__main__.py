"""`python -m sglang_seer COMMAND ...`: each command is a module with `main(argv) -> exit code`."""

import sys
from importlib import import_module

COMMANDS = {
    "doctor": ("sglang_seer.doctor", "is Seer on in this environment, and what is in its way"),
    "demo": ("sglang_seer.demo.command", "the same rollout with stock SGLang and with Seer, on this machine's CPU"),
    "rollout": ("sglang_seer.rollout.command", "samples of a file of prompts from many engines"),
    "simulate": ("sglang_seer.sim.command", "a rollout on a GPU cluster under several policies, without a GPU"),
    "bench": ("sglang_seer.bench", "the benchmarks of a checkout"),
    "report": (
        "sglang_seer.report.command",
        "the page of a rollout's run file, or the table and the picture of what demo --json kept",
    ),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {meaning}" for name, (_, meaning) in COMMANDS.items()]
    return "\n".join(["usage: python -m sglang_seer COMMAND ...", *lines])


def main(argv: list[str]) -> int:
    """Runs one command and returns its exit code; 2 for a command that is not there."""
    if not argv or argv[0] not in {*COMMANDS, "-h", "--help"}:
        seen = f"no command {argv[0]!r}\n" if argv else ""
        print(seen + usage(), file=sys.stderr)
        return 2
    if argv[0] not in COMMANDS:
        print(usage())
        return 0
    module, _ = COMMANDS[argv[0]]
    return int(import_module(module).main(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
