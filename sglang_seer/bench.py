"""`python -m sglang_seer bench NAME ...`: the repository's benchmarks, which a wheel does not hold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A folder named bench beside an installed package need not be ours; ours holds the row format.
MARK = "rows.py"
NOT_COMMANDS = {"__init__", "jobs", "paired", "rows", "tools"}


def main(argv: Sequence[str], root: Path = ROOT) -> int:
    """Runs one benchmark and returns its exit code; 2 for one that is not there or where there are none."""
    folder = root / "bench"
    if not (folder / MARK).is_file():
        print(
            f"bench: no benchmarks at {folder}: they are part of the repository, not of the installed package. "
            "Clone the repository, install it with `pip install --editable .` and call again.",
            file=sys.stderr,
        )
        return 2
    names = benchmarks(folder)
    if not argv or argv[0] not in {*names, "-h", "--help"}:
        seen = f"bench: no benchmark {argv[0]!r}\n" if argv else ""
        print(f"{seen}usage: python -m sglang_seer bench {{{','.join(names)}}} ...", file=sys.stderr)
        return 2
    if argv[0] not in names:
        print(f"usage: python -m sglang_seer bench {{{','.join(names)}}} ...")
        return 0
    sys.path.insert(0, str(root))
    run: Callable[[Sequence[str]], int] = import_module(f"bench.{argv[0]}").main
    return int(run(argv[1:]))


def benchmarks(folder: Path) -> list[str]:
    """Names of the modules and packages in the folder that can be run."""
    modules = [path.stem for path in folder.glob("*.py")]
    packages = [path.parent.name for path in folder.glob("*/__init__.py")]
    return sorted({*modules, *packages} - NOT_COMMANDS)
