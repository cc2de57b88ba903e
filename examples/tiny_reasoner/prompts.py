"""Fresh problems as JSON lines: `python examples/tiny_reasoner/prompts.py --seed 1 --n 64 --out prompts.jsonl`.

Every problem lies on the held-out side of the hash split, so no training run of this folder has seen it.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import task


def make_prompts(*, seed: int, n: int, level: str = "mixed") -> Iterator[dict[str, str]]:
    """`n` different problems as {"prompt": user text, "answer": number as text}; the same seed gives the same ones.

    A longer list begins with the shorter one of the same seed and level.
    """
    rng = random.Random(f"{level}:{seed}")
    seen: set[str] = set()
    while len(seen) < n:
        problem = task.draw_problem(rng, level=level, held_out=True)
        if problem.prompt not in seen:
            seen.add(problem.prompt)
            yield {"prompt": problem.prompt, "answer": str(problem.answer)}


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"saw {text!r}, wanted a whole number of at least 1")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=count, default=64, help="number of problems")
    parser.add_argument("--level", choices=task.LEVELS, default="mixed")
    parser.add_argument("--out", type=Path, help="file to write (default: standard output)")
    args = parser.parse_args(argv)
    lines = "".join(json.dumps(row) + "\n" for row in make_prompts(seed=args.seed, n=args.n, level=args.level))
    if args.out is None:
        sys.stdout.write(lines)
        return
    try:
        args.out.write_text(lines)
    except OSError as error:
        parser.error(f"--out: cannot write {args.out}: {error.strerror}")


if __name__ == "__main__":
    main()
