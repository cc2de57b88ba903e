"""`python -m sglang_seer report FILE`: table and picture of a comparison kept with `demo --json`."""

import argparse
import sys
from pathlib import Path

from sglang_seer.report import kept
from sglang_seer.report.figures import figures
from sglang_seer.report.picture import draw
from sglang_seer.report.table import table


def main(argv: list[str]) -> int:
    """Returns 0, or 2 where the file cannot be read or the picture cannot be drawn."""
    parser = argparse.ArgumentParser(prog="python -m sglang_seer report", description=__doc__)
    parser.add_argument("file", type=Path, help="what demo --json wrote")
    parser.add_argument("--picture", type=Path, help="also draw the picture (.png, .svg, .pdf)")
    args = parser.parse_args(argv)
    try:
        comparison = kept.read(args.file)
        print(table(figures(comparison)))
        if args.picture is not None:
            draw(comparison, args.picture)
            print(f"picture: {args.picture}")
    except ValueError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    return 0
