"""The page of a run: one HTML file that needs nothing else, neither network nor other files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Sequence
from html import escape
from pathlib import Path

from sglang_seer.report.canvas import Chart, short, styled
from sglang_seer.report.chunk_charts import acceptance_over_time, decisions, kind, migrations, reasons
from sglang_seer.report.group_charts import heat_maps
from sglang_seer.report.history import History
from sglang_seer.report.load_charts import engines, requests
from sglang_seer.report.measures import Row, broken, rows, unlike
from sglang_seer.report.page_parts import SCRIPT, STYLE
from sglang_seer.report.picture import require_matplotlib

# What is said instead of a chart.
ABSENT = {
    "engines": "The run tells of no engine.",
    "decisions": "No chunk was started in this run.",
    "migrations": "No request went on on another engine in this run.",
    "acceptance": "No draft was verified in this run.",
}


def charts(history: History, baseline: History | None = None) -> list[Chart]:
    """All charts of a run, in the order of the page. Raises ValueError without matplotlib."""
    require_matplotlib()
    with styled():
        drawn = [
            requests(history, baseline),
            engines(history),
            decisions(history),
            migrations(history),
            heat_maps(history),
            acceptance_over_time(history, baseline),
        ]
    return [chart for chart in drawn if chart is not None]


def page(history: History, drawn: Sequence[Chart], baseline: History | None = None) -> str:
    """The HTML of a run. drawn: what `charts` gave."""
    samples, groups = len(history.submitted), len({group for group, _ in history.submitted})
    said = (
        f"{samples:,} samples of {groups:,} prompts on {len(history.engines)} "
        f"engine{'s' if len(history.engines) != 1 else ''}, {history.end_s:,.1f} s"
    )
    parts = [f"<header><h1>Rollout: {escape(history.name)}</h1><p>{escape(said)}</p></header>"]
    if not history.whole:
        parts.append(
            f'<p class="note">{samples - len(history.ended):,} samples have not ended in this file: the rollout was '
            "cut off or still runs. There is no tail to speak of.</p>"
        )
    parts.append(_summary(rows(history, baseline), history, baseline))
    for chart in drawn:
        below = {"decisions": _reason_table, "engines": _engine_table}.get(chart.name)
        parts.append(_figure(chart, below(history) if below is not None else ""))
    drawn_names = {chart.name for chart in drawn}
    parts += [
        f'<section><p class="note">{said}</p></section>' for name, said in ABSENT.items() if name not in drawn_names
    ]
    parts.append(_details(history))
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(history.name)}: rollout</title>\n'
        # An empty icon: a browser would ask for /favicon.ico else.
        f'<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def write(history: History, baseline: History | None, html: Path, png_folder: Path) -> list[Path]:
    """Writes the page and a PNG of each chart; gives the paths. Raises ValueError where they cannot be written."""
    drawn = charts(history, baseline)
    written = [html]
    try:
        html.write_text(page(history, drawn, baseline), encoding="utf-8")
        png_folder.mkdir(parents=True, exist_ok=True)
        for chart in drawn:
            written.append(png_folder / f"{chart.name}.png")
            chart.png(written[-1])
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}; wanted a place to write the report to") from error
    return written


def _figure(chart: Chart, extra: str) -> str:
    data = escape(json.dumps(chart.readouts(), allow_nan=False), quote=True)
    return (
        f'<section id="{chart.name}"><h2>{escape(chart.title)}</h2>\n<p>{escape(chart.caption)}</p>\n'
        f'<figure role="img" aria-label="{escape(chart.title, quote=True)}" data-plots="{data}">{chart.svg()}'
        f"<output></output></figure>{extra}</section>"
    )


def _summary(found: Sequence[Row], history: History, baseline: History | None) -> str:
    heads = ["", escape(history.name)]
    if baseline is not None:
        heads += [f"baseline: {escape(baseline.name)}", "ratio"]
    lines = []
    for row in found:
        cells = f'<th scope="row">{escape(row.name)}</th><td>{row.run}</td>'
        if baseline is not None:
            verdict = f' <span class="{row.verdict}">{row.verdict}</span>' if row.verdict else ""
            cells += f"<td>{row.baseline}</td><td>{row.ratio}{verdict}</td>"
        lines.append(f"<tr>{cells}</tr>")
    note = unlike(history, baseline) if baseline is not None else None
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    head = "".join(f'<th scope="col">{one}</th>' for one in heads)
    return f"<section><h2>Summary</h2>{said}<table><tr>{head}</tr>{''.join(lines)}</table></section>"


def _engine_table(history: History) -> str:
    """What each engine did; folded away where the panels say most of it."""
    moved_in = Counter(move.target for move in history.migrations)
    moved_out = Counter(move.source for move in history.migrations)
    lines = []
    for number, engine in enumerate(history.engines):
        chunks = [chunk for chunk in history.chunks if chunk.engine == engine]
        tokens = sum(chunk.tokens for chunk in chunks)
        down_s = sum(until_s - since_s for since_s, until_s in history.down(engine))
        cells = (number, escape(short(engine)), f"{len(chunks):,}", f"{tokens:,}", moved_in[engine], moved_out[engine])
        lines.append([*cells, f"{down_s:.1f}"])
    heads = ("number", "engine", "chunks", "output tokens", "requests moved here", "moved away", "seconds down")
    return f"<details><summary>Every engine</summary>{_table(heads, lines, text=(1,))}</details>"


def _reason_table(history: History) -> str:
    """Each kind of reason: how often, and what the last decision of the kind said in full."""
    total = len(history.assigns)
    last = {kind(assign.reason): assign.reason for assign in history.assigns}
    lines = [
        [escape(name), f"{len(times):,}", f"{100 * len(times) / total:.0f}%", escape(last[name])]
        for name, times in reasons(history).items()
    ]
    return _table(("reason", "chunks", "share", "the last one said"), lines, text=(0, 3))


def _table(heads: Sequence[str], lines: Sequence[Sequence[object]], text: Container[int]) -> str:
    """Cells are HTML. text: columns that are no numbers."""
    kinds = [' class="text"' if column in text else "" for column in range(len(heads))]
    first = "".join(f'<th scope="col"{kind}>{head}</th>' for head, kind in zip(heads, kinds, strict=True))
    rest = [
        f"<tr>{''.join(f'<td{kind}>{cell}</td>' for cell, kind in zip(line, kinds, strict=True))}</tr>"
        for line in lines
    ]
    return f"<table><tr>{first}</tr>{''.join(rest)}</table>"


def _details(history: History) -> str:
    """Settings, engines that went, and chunks that broke off."""
    items = [f"<li>{escape(name)}: {escape(str(value))}</li>" for name, value in history.settings.items()]
    parts = [f"<h2>Settings</h2><ul>{''.join(items)}</ul>"] if items else []
    states = [
        f"<li>{state.at_s:,.1f} s: {escape(short(state.engine))} {escape(state.state)}: {escape(state.why)}</li>"
        for state in history.states
        if state.at_s > 0
    ]
    if states:
        parts.append(f"<h2>Engines that came and went</h2><ul>{''.join(states)}</ul>")
    if found := broken(history):
        lines = [f"<li>{escape(end)}: {times:,}</li>" for end, times in found.most_common()]
        parts.append(f"<h2>Chunks that broke off</h2><ul>{''.join(lines)}</ul>")
    return f"<section>{''.join(parts)}</section>" if parts else ""
