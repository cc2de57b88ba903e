"""`python -m sglang_seer report FILE`: the page of a rollout's run file, or the table of a demo's comparison.

A run file, written by `rollout --run`, becomes one HTML page without outside parts and a PNG of each chart. A file
written by `demo --json` becomes a table, and a picture if asked for. Which of them FILE is, its content says.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from sglang_seer.report import history, kept, page
from sglang_seer.report.figures import figures
from sglang_seer.report.measures import rows, text_table
from sglang_seer.report.picture import draw
from sglang_seer.report.table import table


def main(argv: list[str]) -> int:
    """Returns 0, or 2 where a file cannot be read or written, or is of another kind."""
    parser = argparse.ArgumentParser(prog="python -m sglang_seer report", description=__doc__)
    parser.add_argument("file", type=Path, help="what rollout --run or demo --json wrote")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="run file of another rollout to compare with")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the page; else beside the run file, as .html")
    parser.add_argument("--png-folder", type=Path, metavar="DIR", help="the charts; else beside the page, NAME_charts")
    parser.add_argument("--picture", type=Path, help="of a comparison: also draw the picture (.png, .svg, .pdf)")
    args = parser.parse_args(argv)
    try:
        if is_comparison(args.file):
            report_comparison(args)
        else:
            report_run(args)
    except ValueError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    return 0


def is_comparison(path: Path) -> bool:
    """Whether the file holds a comparison, by its content; else it is a run file.

    Raises ValueError for a file that cannot be read, is empty, or is neither.
    """
    wanted = "wanted a file written by rollout --run or by demo --json"
    try:
        with path.open("rb") as file:
            first = file.readline()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; {wanted}") from error
    if not first:
        raise ValueError(f"{path}: an empty file; {wanted}")
    # demo --json writes one object over many lines.
    if first.strip() == b"{":
        return True
    try:
        fields = msgspec.json.decode(first, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}, line 1: {error}; {wanted}") from error
    if "type" not in fields and "samples" not in fields:
        raise ValueError(f"{path}: neither a run nor a comparison: saw {first[:60]!r}; {wanted}")
    return "type" not in fields


def report_comparison(args: argparse.Namespace) -> None:
    for option, value in (("--baseline", args.baseline), ("--html", args.html), ("--png-folder", args.png_folder)):
        if value is not None:
            raise ValueError(f"{option}: {args.file} was written by demo --json; wanted a run file (rollout --run)")
    comparison = kept.read(args.file)
    print(table(figures(comparison)))
    if args.picture is not None:
        draw(comparison, args.picture)
        print(f"picture: {args.picture}")


def report_run(args: argparse.Namespace) -> None:
    if args.picture is not None:
        raise ValueError(f"--picture: {args.file} is a run file, whose charts go to --png-folder")
    run = history.read(args.file)
    baseline = history.read(args.baseline) if args.baseline is not None else None
    html = args.html or args.file.with_suffix(".html")
    if html == args.file:
        raise ValueError(f"{args.file}: the page would overwrite the run file; name another with --html")
    print(text_table(rows(run, baseline), with_baseline=baseline is not None))
    folder = args.png_folder or html.with_name(f"{html.stem}_charts")
    first, *others = page.write(run, baseline, html, folder)
    print(f"page: {first}\ncharts: {len(others)} in {folder}")
