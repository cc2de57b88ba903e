"""The figures of one run, and a table of them beside a baseline's. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from sglang_seer.report.history import GOOD_ENDS, History

# Ratios closer to one than this are not called better or worse.
SAME = 0.02


class Figure(NamedTuple):
    """better: 1 where more is better, -1 where less is, 0 for what is neither. seen: None if it is not known."""

    name: str
    shape: str
    better: int
    seen: Callable[[History], float | None]


class Row(NamedTuple):
    """A figure as text; verdict: `better`, `worse` or empty."""

    name: str
    run: str
    baseline: str
    ratio: str
    verdict: str


def _seconds(history: History) -> float:
    return history.end_s


def _tokens(history: History) -> float:
    return float(sum(chunk.tokens for chunk in history.chunks))


def _throughput(history: History) -> float | None:
    seconds = _seconds(history)
    return _tokens(history) / seconds if seconds > 0 else None


def tail_seconds(history: History) -> float | None:
    return history.end_s - history.tail_s if history.tail_s is not None else None


def _tail_share(history: History) -> float | None:
    tail, seconds = tail_seconds(history), _seconds(history)
    return 100 * tail / seconds if tail is not None and seconds > 0 else None


def _length(quantile: float) -> Callable[[History], float | None]:
    def of(history: History) -> float | None:
        lengths = [one.output_tokens for one in history.ended]
        return float(np.quantile(lengths, quantile)) if lengths else None

    return of


def acceptance_length(history: History) -> float | None:
    """Bonus token included; of chunks that verified drafts."""
    steps = sum(chunk.verify_steps for chunk in history.chunks)
    return sum(chunk.tokens for chunk in history.chunks if chunk.verify_steps) / steps if steps else None


def prefilled_again_tokens(history: History) -> int:
    """Input of chunks that go on from earlier ones and found it in no cache; one token is always computed."""
    begun: set[tuple[str, int]] = set()
    again = 0
    for chunk in history.chunks:
        if (chunk.group, chunk.sample) in begun and chunk.tokens:
            again += max(chunk.input_tokens - chunk.cached_tokens - 1, 0)
        if chunk.tokens:
            begun.add((chunk.group, chunk.sample))
    return again


def estimate_error(history: History) -> float | None:
    """The factor by which a response's length differs from its group's estimate when its last chunk began; median."""
    expected = {(assign.group, assign.sample): assign.expected_tokens for assign in history.assigns}
    pairs = [
        (float(one.output_tokens), expected[one.group, one.sample])
        for one in history.ended
        if one.finish_reason in GOOD_ENDS and one.output_tokens and expected.get((one.group, one.sample), 0) > 0
    ]
    return median(max(pair) / min(pair) for pair in pairs) if pairs else None


def kv_use(history: History) -> list[float]:
    """Share of the KV slots in use at each look at an engine."""
    return [
        load.used_tokens / load.capacity_tokens
        for loads in history.loads.values()
        for load in loads
        if load.capacity_tokens and 0 <= load.at_s <= history.end_s
    ]


def _kv(reduce: Callable[[list[float]], float]) -> Callable[[History], float | None]:
    def of(history: History) -> float | None:
        shares = kv_use(history)
        return 100 * float(reduce(shares)) if shares else None

    return of


FIGURES = (
    Figure("samples submitted", "{:,.0f}", 0, lambda history: len(history.submitted)),
    Figure("samples ended", "{:,.0f}", 0, lambda history: len(history.ended)),
    Figure("output tokens", "{:,.0f}", 0, _tokens),
    Figure("seconds", "{:,.1f}", -1, _seconds),
    Figure("tokens/s", "{:,.0f}", 1, _throughput),
    Figure("tail seconds (only the last 10% run)", "{:,.1f}", -1, tail_seconds),
    Figure("tail, % of the time", "{:.0f}", -1, _tail_share),
    Figure("response tokens, median", "{:,.0f}", 0, _length(0.5)),
    Figure("response tokens, longest", "{:,.0f}", 0, _length(1.0)),
    Figure("length estimate off by a factor of (median)", "{:.2f}", -1, estimate_error),
    Figure("acceptance length (bonus included)", "{:.2f}", 1, acceptance_length),
    Figure("KV in use, mean %", "{:.0f}", 0, _kv(lambda shares: float(np.mean(shares)))),
    Figure("KV in use, peak %", "{:.0f}", 0, _kv(max)),
    Figure("chunks", "{:,.0f}", 0, lambda history: len(history.chunks)),
    Figure("migrations", "{:,.0f}", 0, lambda history: len(history.migrations)),
    Figure("tokens prefilled again", "{:,.0f}", -1, prefilled_again_tokens),
    Figure("retractions", "{:,.0f}", -1, lambda history: sum(chunk.retractions for chunk in history.chunks)),
    Figure("chunks broken off", "{:,.0f}", -1, lambda history: sum(broken(history).values())),
)


def broken(history: History) -> Counter[str]:
    """Chunks that did not end by themselves, by what broke them off."""
    return Counter(chunk.end.split(":")[0] for chunk in history.chunks if chunk.end not in GOOD_ENDS)


def rows(history: History, baseline: History | None = None) -> list[Row]:
    """Every figure; the ratio is of the run to the baseline."""
    found = []
    for figure in FIGURES:
        seen = figure.seen(history)
        other = figure.seen(baseline) if baseline is not None else None
        ratio = seen / other if seen is not None and other else None
        verdict = ""
        if ratio is not None and figure.better and abs(ratio - 1) > SAME:
            verdict = "better" if (ratio > 1) == (figure.better > 0) else "worse"
        shown = f"{ratio:.2f}x" if ratio is not None and figure.better else ""
        found.append(Row(figure.name, _text(seen, figure.shape), _text(other, figure.shape), shown, verdict))
    return found


def _text(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)


def unlike(history: History, baseline: History) -> str | None:
    """Why the two cannot be compared sample by sample, None if they can."""
    if history.submitted.keys() != baseline.submitted.keys():
        both = len(history.submitted.keys() & baseline.submitted.keys())
        return (
            f"The baseline was asked for other samples ({len(baseline.submitted)} against {len(history.submitted)}, "
            f"{both} in both), so the ratios compare unlike work."
        )
    lengths = [{(one.group, one.sample): one.output_tokens for one in run.ended} for run in (history, baseline)]
    different = sum(lengths[0].get(key) != tokens for key, tokens in lengths[1].items())
    if different:
        return f"{different} of {len(baseline.ended)} samples have another length in the baseline."
    return None


def text_table(found: Sequence[Row], *, with_baseline: bool) -> str:
    """The rows as text for a terminal."""
    columns = 4 if with_baseline else 2
    lines = [("", "run", "baseline", "ratio")[:columns], *(row[:columns] for row in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(columns)]
    text = []
    for name, *cells in lines:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        text.append("  ".join([f"{name:<{widths[0]}}", *padded]).rstrip())
    text.insert(1, "-" * max(map(len, text)))
    return "\n".join(text)
