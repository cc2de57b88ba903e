"""`python -m sglang_seer bench tables`: fills the tables in README.md and docs/ from the JSON of the benchmarks.

A place for one is `<!-- table: NAME -->`, then `<!-- /table -->`. Exit status: 0, with --check 1 where a page differs
from what the JSON gives, 2 for a table that is not known or JSON that cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.rows import ROOT
from bench.tables.blocks import filled
from bench.tables.results import Results
from bench.tables.tables import TABLES

RESULTS = ROOT / "bench" / "results"


def main(argv: Sequence[str], root: Path = ROOT) -> int:
    """Writes the pages whose tables have changed, or only names them."""
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where a page would change")
    parser.add_argument("--list", action="store_true", help="name each table, its JSON, and the command that makes it")
    options = parser.parse_args(argv)
    if options.list:
        for name, table in TABLES.items():
            print(f"{name}: bench/results/{table.file}: {table.command}")
        return 0
    try:
        changed = changes(root)
    except ValueError as error:
        print(f"tables: {error}", file=sys.stderr)
        return 2
    for path, page in changed.items():
        print(f"tables: {path.relative_to(root)} {'differs from the JSON' if options.check else 'written'}")
        if not options.check:
            path.write_text(page)
    return 1 if options.check and changed else 0


def pages(root: Path) -> list[Path]:
    """Where tables may stand."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def changes(root: Path) -> dict[Path, str]:
    """Pages that differ from what the JSON gives, as they should be. Raises ValueError as `render` does."""
    found = {}
    for path in pages(root):
        page = path.read_text()
        try:
            new = filled(page, render)
        except ValueError as error:
            raise ValueError(f"{path.relative_to(root)}: {error}") from error
        if new != page:
            found[path] = new
    return found


def render(name: str, folder: Path = RESULTS) -> str:
    """A table and the line that says where it is from. Raises ValueError for one that is not known or has no JSON."""
    if name not in TABLES:
        raise ValueError(f"no table {name!r}; known are {', '.join(TABLES)}")
    table = TABLES[name]
    results = Results(folder / table.file)
    return f"\n{table.render(results)}\n\n{results.origin(table.command)}\n"
