"""The tables of the command's output."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from bench.draft.drafter import SHAPES
from bench.draft.figures import MEAN, Replayed, Versus, averaged
from bench.rows import Row, table


def acceptance_table(duels: Sequence[Versus], replays: Sequence[Replayed]) -> str:
    """Ours against the best peer, set by set and shape by shape."""
    lines = []
    for duel in duels:
        ours, peer = duel.ours.outcome, duel.peer.outcome
        share = ours.total.accepted / max(ours.total.drafted, 1)
        lines.append(
            [
                duel.set,
                duel.shape.name,
                f"{ours.total.acceptance:.3f}",
                f"{peer.total.acceptance:.3f}",
                f"{duel.ratio:.3f}",
                f"{duel.peer.config.system}/{duel.peer.config.name}",
                f"{share:.3f}",
                _number(ours.conditional.error(), "{:.3f}"),
                _number(ours.path.error(), "{:.3f}"),
            ]
        )
    for shape in dict.fromkeys(duel.shape.name for duel in duels):
        alike = [duel for duel in duels if duel.shape.name == shape]
        kept = {one.set for one in averaged(replays)}
        ratios = [duel.ratio for duel in alike if duel.set in kept]
        mine = [duel.ours.outcome.total.acceptance for duel in alike if duel.set in kept]
        theirs = [duel.peer.outcome.total.acceptance for duel in alike if duel.set in kept]
        cells = [f"{fmean(values):.3f}" for values in (mine, theirs, ratios)]
        lines.append([MEAN, shape, *cells, "best of each set", "", "", ""])
    columns = ["set", "shape", "seer", "best peer", "ratio", "which", "accepted share", "ECE node", "ECE path"]
    return table("Acceptance: tokens a verification step, bonus token included", columns, lines)


def configurations_table(rows: Sequence[Row]) -> str:
    """Mean acceptance of every configuration."""
    means = [row for row in rows if row.metric == "acceptance" and row.case.startswith(f"{MEAN}/")]
    shapes = list(dict.fromkeys(row.case.split("/")[1] for row in means))
    names = list(dict.fromkeys((row.system, row.case.split("/")[2]) for row in means))
    value = {(row.system, row.case.split("/")[2], row.case.split("/")[1]): row.value for row in means}
    lines = [[f"{s}/{c}", *(_number(value.get((s, c, shape)), "{:.3f}") for shape in shapes)] for s, c in names]
    return table("Mean acceptance over the sets, by configuration", ["system", *shapes], lines)


def budget_table(rows: Sequence[Row]) -> str:
    """Rejected nodes under the batch-wide budget, set by set."""
    columns = ["rejected_over_full_width", "budgeted_nodes", "budgeted_acceptance_over_full_width"]
    value = {(row.case, row.metric): row.value for row in rows}
    cases = list(dict.fromkeys(row.case for row in rows))
    lines = [[case, *(f"{value[case, metric]:.3f}" for metric in columns)] for case in cases]
    title = "Batch-wide budget at the acceptance of always drafting the full width"
    return table(title, ["set / full width", "rejected nodes, ratio", "nodes a request", "acceptance, ratio"], lines)


def draft_table(rows: Sequence[Row]) -> str:
    """Draft times by case, shape and configuration."""
    metrics = ("draft_us_per_request", "draft_us_p50", "draft_us_p99", "draft_wall_us_per_request", "drafted_nodes")
    kept = [row for row in rows if row.metric in metrics]
    lines = []
    for system, case in dict.fromkeys((row.system, row.case) for row in kept):
        found = {row.metric: row for row in kept if (row.system, row.case) == (system, case)}
        size, shape, config = case.split("/")
        first = found[metrics[0]]
        spread = f"{first.spread['min']:.2f} to {first.spread['max']:.2f}" if first.spread else ""
        lines.append(
            [size, f"{system}/{config}", shape, f"{first.value:.2f}", spread]
            + [_number(found[metric].value, "{:.2f}") for metric in metrics[1:]]
        )
    columns = ["case", "system", "shape", "us/request", "blocks", "p50", "p99", "wall us/request", "nodes"]
    order = [shape.name for shape in SHAPES]
    lines.sort(key=lambda line: (line[0], order.index(line[2]), float(line[3])))
    return table("Draft time, CPU microseconds a request", columns, lines)


def upkeep_table(rows: Sequence[Row]) -> str:
    """Append time, memory and the longest calls by case and configuration."""
    plain = ("append_us_per_token", "append_wall_us_per_token", "bytes_per_token", "reported_bytes_per_token")
    kinds = ("stall", "append", "propose", "open", "finish", "drop_sequence", "drop_group")
    metrics = (*plain, *(f"worst_{kind}_ms" for kind in kinds), "worst_stall_wall_ms")
    kept = [row for row in rows if row.metric in metrics]
    lines = []
    for system, case in dict.fromkeys((row.system, row.case) for row in kept):
        found = {row.metric: row.value for row in kept if (row.system, row.case) == (system, case)}
        size, config = case.split("/")
        lines.append([size, f"{system}/{config}", *(_number(found.get(metric), "{:.3g}") for metric in metrics)])
    columns = ["case", "system", "append us/token", "wall", "bytes/token", "own count"]
    columns += ["worst ms", *kinds[1:], "worst wall ms"]
    return table("Upkeep: append, memory, longest single calls (CPU ms)", columns, sorted(lines))


def gain_table(rows: Sequence[Row]) -> str:
    """How many times cheaper ours is than the cheapest configuration of each peer."""
    kept = [row for row in rows if row.metric.endswith("_gain")]
    lines = [[*row.case.split(" over "), row.metric.removesuffix("_gain"), f"{row.value:.1f}"] for row in kept]
    return table("Peer by ours: how many times cheaper", ["case", "cheapest peer", "metric", "times"], lines)


def _number(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)
