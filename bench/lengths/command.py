"""`python -m sglang_seer bench lengths`: how well each length model foretells what of a rollout is still to come."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.draft import tokens, traces
from bench.lengths import measure, workloads
from bench.lengths.measure import QUANTILES, Score
from bench.lengths.workloads import Workload
from bench.rows import Row, header, median_row, table, write_json

BENCH = "lengths"
SIBLINGS = (0, 1, 2, 4, 7)
SHARES = (0.25, 0.5, 0.75, 0.9)
TOKENIZER_CHARS = 4_000_000
NAMES = {"longest_sibling": "paper", "context": "ours", "all_siblings": "bound"}


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark; 0 when done, 2 for bad arguments or data."""
    options = _parse(argv)
    try:
        sets = traces.read_folder(options.data) if options.data else []
        tokenizer = tokens.tokenizer_of(sets, most_chars=TOKENIZER_CHARS) if sets else None
        chosen = [workloads.from_traces(one, tokenizer) for one in sets if tokenizer is not None]
    except (ValueError, OSError) as error:
        print(f"lengths: {error}", file=sys.stderr)
        return 2
    groups, size = options.groups, options.group_size
    chosen += [workloads.draw(how, groups=groups, size=size) for how in workloads.DRAWN]
    rows: list[Row] = []
    lines: list[list[str]] = []
    for workload in chosen:
        print(f"lengths: {workload.name}", file=sys.stderr, flush=True)
        by_moment: dict[str, list[dict[str, Score]]] = {}
        for seed in range(options.seeds):
            for moment in (
                *measure.after_siblings(workload, SIBLINGS, seed),
                *measure.during_rollout(workload, SHARES, seed),
            ):
                by_moment.setdefault(moment.name, []).append(measure.scores(workload, moment))
        for name, scored in by_moment.items():
            found = _rows(f"{workload.name}/{name}", scored)
            rows += found
            lines.append(_line(workload, name, found))
    print(table("Length models: what is still to come of unfinished responses", _columns(), lines))
    print(
        "siblings: so many of each group ended, the others not begun; ended: share of a first-come rollout.\n"
        "log error: root mean square of log(median / truth). rank: Spearman of expected and true remainder.\n"
        "paper: longest finished sibling. ours: ContextLengths. bound: knows all siblings of a response beforehand.\n"
        "within q: share of truths below the quantile that ours gives."
    )
    if options.json:
        head = header("python -m sglang_seer bench lengths", ("sglang-seer", "numpy", "tokenizers"))
        described = {
            one.name: {
                "real": one.real,
                "groups": len(one.groups),
                "responses": sum(map(len, one.groups)),
                "limit_tokens": one.limit_tokens,
                "correlation": workloads.correlation(one.groups),
            }
            for one in chosen
        }
        write_json(options.json, head, rows, workloads=described)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench lengths", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of trace files (*.jsonl.zst); without it, drawn lengths only")
    parser.add_argument("--json", type=Path, help="where to write header and rows")
    parser.add_argument("--seeds", type=int, default=3, help="rollouts of each workload (default 3)")
    parser.add_argument("--groups", type=int, default=200, help="groups of a drawn workload (default 200)")
    parser.add_argument("--group-size", type=int, default=16, help="responses of a drawn group (default 16)")
    options = parser.parse_args(argv)
    for name, least in (("seeds", 1), ("groups", 2), ("group_size", 2)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')}: wanted at least {least}, saw {getattr(options, name)}")
    return options


def _rows(case: str, scored: Sequence[dict[str, Score]]) -> list[Row]:
    rows = []
    for system in scored[0]:
        mine = [one[system] for one in scored]
        rows.append(median_row(BENCH, system, case, "log_error", [one.log_error for one in mine], "nats"))
        rows.append(median_row(BENCH, system, case, "spearman", [one.spearman for one in mine], "1"))
        for place, q in enumerate(QUANTILES):
            values = [one.coverage[place] for one in mine]
            rows.append(median_row(BENCH, system, case, f"coverage_q{100 * q:.0f}", values, "1"))
    return rows


def _columns() -> list[str]:
    pairs = [f"{metric}, {name}" for metric in ("log error", "rank") for name in NAMES.values()]
    return ["lengths", *pairs, *(f"within q{100 * q:.0f}" for q in QUANTILES)]


def _line(workload: Workload, moment: str, rows: Sequence[Row]) -> list[str]:
    value = {(row.system, row.metric): row.value for row in rows}
    cells = [f"{value[system, metric]:.2f}" for metric in ("log_error", "spearman") for system in NAMES]
    covered = [f"{100 * value['context', f'coverage_q{100 * q:.0f}']:.0f}%" for q in QUANTILES]
    return [f"{workload.name}, {moment}", *cells, *covered]
