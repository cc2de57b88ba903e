"""Rows from what was measured, and our numbers over the best peer's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np

from bench.draft.drafter import Config, Shape
from bench.draft.pairs import Measured
from bench.draft.replay import Counts, Outcome
from bench.draft.scale import Case
from bench.rows import Row, median_row

BENCH = "draft"
MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Replayed:
    """One replay of one set; `real` tells traces from generated text."""

    set: str
    real: bool
    config: Config
    shape: Shape
    outcome: Outcome

    @property
    def case(self) -> str:
        return f"{self.set}/{self.shape.name}/{self.config.name}"


def acceptance_rows(replays: Sequence[Replayed]) -> list[Row]:
    """Acceptance, accepted share and calibration error of every replay, and their means over the sets."""
    rows = []
    for one in replays:
        rows += _replay_rows(one)
    # By system too: configurations of two systems may have the same name.
    for system, config, shape in dict.fromkeys(map(_kind, replays)):
        alike = [one for one in averaged(replays) if _kind(one) == (system, config, shape)]
        if alike:
            mean = fmean(one.outcome.total.acceptance for one in alike)
            rows.append(Row(BENCH, system, f"{MEAN}/{shape}/{config}", "acceptance", mean, "tokens/step"))
    return rows


def _kind(one: Replayed) -> tuple[str, str, str]:
    return one.config.system, one.config.name, one.shape.name


def averaged(replays: Iterable[Replayed]) -> list[Replayed]:
    """Those that means are taken over: the traces, or the generated sets if there are no traces."""
    replays = list(replays)
    return [one for one in replays if one.real] or replays


def _replay_rows(one: Replayed) -> list[Row]:
    system, total = one.config.system, one.outcome.total
    share = total.accepted / total.drafted if total.drafted else 0.0
    rows = [
        Row(
            BENCH, system, one.case, "acceptance", total.acceptance, "tokens/step", _standard_error(one.outcome.groups)
        ),
        Row(BENCH, system, one.case, "accepted_share", share, "ratio"),
    ]
    for kind, calibration in (("node", one.outcome.conditional), ("path", one.outcome.path)):
        error = calibration.error()
        if error is not None:
            rows.append(Row(BENCH, system, f"{one.case}/{kind}", "calibration_error", error, "probability"))
    return rows


def _standard_error(groups: Sequence[Counts]) -> dict[str, float]:
    """Jackknife over the groups: what another choice of prompts would change."""
    steps, tokens = sum(group.steps for group in groups), sum(group.tokens for group in groups)
    without = [(tokens - g.tokens) / (steps - g.steps) for g in groups if steps > g.steps]
    count = len(without)
    error = stdev(without) * (count - 1) / count**0.5 if count > 1 else 0.0
    return {"standard_error": error, "groups": len(groups)}


@dataclass(frozen=True, slots=True)
class Versus:
    """Our first configuration against the best of all peer configurations with at most as many nodes, on one set."""

    set: str
    shape: Shape
    ours: Replayed
    peer: Replayed

    @property
    def ratio(self) -> float:
        return self.ours.outcome.total.acceptance / self.peer.outcome.total.acceptance


def versus(replays: Sequence[Replayed], ours: Config) -> list[Versus]:
    """For every set and shape. A tree may be met by a chain of as many nodes; a chain only by chains."""
    found = []
    for one in replays:
        if one.config != ours:
            continue
        peers = [
            other
            for other in replays
            if other.set == one.set
            and other.config.system != ours.system
            and other.shape.nodes == one.shape.nodes
            and (other.shape.chain or not one.shape.chain)
        ]
        if peers:
            best = max(peers, key=lambda other: other.outcome.total.acceptance)
            found.append(Versus(one.set, one.shape, one, best))
    return found


def versus_rows(duels: Sequence[Versus]) -> list[Row]:
    """The ratios, and their mean over the sets for each shape."""
    rows = []
    for duel in duels:
        peer = duel.peer.config
        case = f"{duel.ours.case} over {peer.system}/{duel.peer.shape.name}/{peer.name}"
        rows.append(Row(BENCH, duel.ours.config.system, case, "acceptance_over_best_peer", duel.ratio, "ratio"))
    for shape in dict.fromkeys(duel.shape for duel in duels):
        alike = [duel for duel in duels if duel.shape == shape]
        ratios = [duel.ratio for duel in [d for d in alike if d.ours.real] or alike]
        config = alike[0].ours.config
        case = f"{MEAN}/{shape.name}/{config.name} over the best peer of each set"
        rows.append(Row(BENCH, config.system, case, "acceptance_over_best_peer", fmean(ratios), "ratio"))
    return rows


def timing_rows(case: Case, measured: Sequence[Measured]) -> list[Row]:
    """The rows of one configuration, which may have been measured in several processes.

    Times are CPU time; a repetition is a block. The 99th percentile is that of a step's mean time a request.
    """
    config = measured[0].config
    system, name = config.system, f"{case.name}/{config.name}"
    rows = []
    for shape in dict.fromkeys(shape for one in measured for shape in one.blocks):
        blocks = [block for one in measured for block in one.blocks.get(shape, [])]
        place = f"{case.name}/{shape}/{config.name}"
        steps = [us for block in blocks for us in block.draft.each_us_per_unit()]
        for metric, clock in (("draft_us_per_request", "cpu_ns"), ("draft_wall_us_per_request", "wall_ns")):
            rows.append(median_row(BENCH, system, place, metric, [b.draft.us_per_unit(clock) for b in blocks], "us"))
        rows.append(median_row(BENCH, system, place, "drafted_nodes", [b.nodes for b in blocks], "nodes/request"))
        for percent in (50, 99):
            rows.append(Row(BENCH, system, place, f"draft_us_p{percent}", float(np.percentile(steps, percent)), "us"))
    blocks = [block for one in measured for kept in one.blocks.values() for block in kept]
    for metric, clock in (("append_us_per_token", "cpu_ns"), ("append_wall_us_per_token", "wall_ns")):
        rows.append(median_row(BENCH, system, name, metric, [b.append.us_per_unit(clock) for b in blocks], "us"))
    grown = [one.filled.rss_bytes / one.filled.tokens for one in measured]
    rows.append(median_row(BENCH, system, name, "bytes_per_token", grown, "bytes"))
    counted = [b / one.filled.tokens for one in measured if (b := one.filled.reported_bytes) is not None]
    if counted:
        rows.append(median_row(BENCH, system, name, "reported_bytes_per_token", counted, "bytes"))
    return rows + _stall_rows(system, name, measured)


def _stall_rows(system: str, name: str, measured: Sequence[Measured]) -> list[Row]:
    rows = []
    stalls = [one.stalls for one in measured if one.stalls is not None]
    for suffix, runs in (("ms", [s.worst_ms for s in stalls]), ("wall_ms", [s.worst_wall_ms for s in stalls])):
        # What a draft costs has rows of its own; a stall is what comes on top.
        worst = [max(value for kind, value in kinds.items() if kind != "propose") for kinds in runs]
        rows.append(median_row(BENCH, system, name, f"worst_stall_{suffix}", worst, "ms"))
        for kind in dict.fromkeys(kind for kinds in runs for kind in kinds):
            values = [kinds[kind] for kinds in runs if kind in kinds]
            rows.append(median_row(BENCH, system, name, f"worst_{kind}_{suffix}", values, "ms"))
    return rows


def gain_rows(rows: Sequence[Row], ours: Config) -> list[Row]:
    """How many times less time, memory or stall ours takes than the cheapest configuration of each peer."""
    gains = []
    for metric in ("draft_us_per_request", "append_us_per_token", "bytes_per_token", "worst_stall_ms"):
        kept = [row for row in rows if row.metric == metric]
        for mine in kept:
            place, _, config = mine.case.rpartition("/")
            if (mine.system, config) != (ours.system, ours.name):
                continue
            for system in dict.fromkeys(row.system for row in kept if row.system != ours.system):
                peers = [row for row in kept if row.system == system and row.case.rpartition("/")[0] == place]
                if peers:
                    best = min(peers, key=lambda row: row.value)
                    case = f"{mine.case} over {system}/{best.case.rpartition('/')[2]}"
                    gains.append(Row(BENCH, mine.system, case, f"{metric}_gain", best.value / mine.value, "ratio"))
    return gains


def curves(replays: Sequence[Replayed]) -> dict[str, list[dict[str, Any]]]:
    """Calibration curves by system, case and kind; for sets of traces and generated ones alike."""
    kept = {}
    for one in replays:
        for kind, calibration in (("node", one.outcome.conditional), ("path", one.outcome.path)):
            if calibration.error() is not None:
                kept[f"{one.config.system}/{one.case}/{kind}"] = calibration.curve()
    return kept
