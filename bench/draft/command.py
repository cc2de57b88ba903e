"""`python -m sglang_seer bench draft`: our draft index against its peers, on the same token streams."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tokenizers import Tokenizer

from bench.draft import budgeted, figures, pairs, scale, show, synthetic, systems, tokens, traces
from bench.draft.drafter import SHAPES, Config, PeerUnavailable, Shape
from bench.draft.figures import Replayed
from bench.draft.replay import Outcome, replay
from bench.draft.settings import FULL, QUICK, SMALLEST, Settings, without_peers
from bench.draft.systems import arctic, arctic_install, seer, sglang_ngram
from bench.rows import Row, header, write_json

PEERS_MISSING = 3
PACKAGES = ("sglang-seer", "sglang", "numpy", "tokenizers")
GENERATED = "generated"
STARTED_S = time.perf_counter()


@dataclass(frozen=True, slots=True)
class Text:
    """A set as tokens."""

    name: str
    real: bool
    groups: list[tokens.TokenGroup]


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark; 0 when done, 2 for bad arguments or data, 3 if --require-peers and one cannot be had."""
    options = _parse(argv)
    settings = SMALLEST if options.smallest else QUICK if options.quick else FULL
    if options.no_peers:
        settings = without_peers(settings)
    try:
        sets = traces.read_folder(options.data) if options.data else []
    except (ValueError, OSError) as error:
        print(f"draft: {error}", file=sys.stderr)
        return 2
    missing = _missing_peers() if settings.peers or settings.timed_peers else {}
    for reason in missing.values():
        _warn(f"PEER MISSING, its rows are left out: {reason}")
    if missing and options.require_peers:
        return PEERS_MISSING
    tokenizer = tokens.tokenizer_of(sets, most_chars=settings.tokenizer_chars) if sets else None
    rows: list[Row] = []
    replays: list[Replayed] = []
    if options.part in ("all", "acceptance"):
        texts = _texts(sets, tokenizer, options.tokens or settings.tokens, settings.siblings)
        replays = _replay_all(texts, settings, missing, options.jobs)
        duels = figures.versus(replays, seer.CONFIGS[0])
        rows += figures.acceptance_rows(replays) + figures.versus_rows(duels)
        print(show.acceptance_table(duels, replays) if duels else "no peer, no comparison\n")
        print(show.configurations_table(rows))
        _warn("drafting under the batch-wide budget")
        spent = [row for text in texts for row in budgeted.rows(text.name, text.groups, tokens.VOCAB_SIZE)]
        spent += budgeted.mean_rows(spent, [text.name for text in texts if text.real])
        rows += spent
        print(show.budget_table(spent))
    if options.part in ("all", "timing"):
        timed = _time_all(sets, tokenizer, settings, missing)
        gains = figures.gain_rows(timed, seer.CONFIGS[0])
        rows += timed + gains
        print(show.draft_table(timed))
        print(show.upkeep_table(timed))
        print(show.gain_table(gains))
    if options.json:
        head = header("python -m sglang_seer bench draft" + (" --quick" if options.quick else ""), PACKAGES)
        compared = settings.peers or settings.timed_peers
        head["versions"]["arctic-inference"] = arctic_install.VERSION if compared and "arctic" not in missing else None
        head["sets"] = {one.name: len(one.groups) for one in sets}
        write_json(options.json, head, rows, missing_peers=missing, calibration_curves=figures.curves(replays))
    if options.plots:
        from bench.draft import plots

        plots.draw(options.plots, replays, rows)
    for reason in missing.values():
        _warn(f"PEER MISSING, its rows are left out: {reason}")
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench draft", description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="folder of trace files (*.jsonl.zst); without it, generated text only"
    )
    parser.add_argument("--json", type=Path, help="where to write header, rows and calibration curves")
    parser.add_argument("--plots", type=Path, help="folder for PNG pictures (needs matplotlib)")
    parser.add_argument("--quick", action="store_true", help="fewer tokens, configurations and repetitions")
    parser.add_argument("--smallest", action="store_true", help="next to nothing and no peers, to see that it runs")
    parser.add_argument("--no-peers", action="store_true", help="ours alone, as where no network is to get them")
    parser.add_argument("--tokens", type=int, help="generated tokens replayed of each set")
    parser.add_argument("--part", choices=("all", "acceptance", "timing"), default="all")
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes for the replays, which are not timed (default 1)"
    )
    parser.add_argument("--require-peers", action="store_true", help=f"exit {PEERS_MISSING} if a peer cannot be had")
    options = parser.parse_args(argv)
    for name in ("tokens", "jobs"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name}: wanted at least 1, saw {getattr(options, name)}")
    return options


def _warn(text: str) -> None:
    print(f"draft, {time.perf_counter() - STARTED_S:.0f} s: {text}", file=sys.stderr, flush=True)


def _missing_peers() -> dict[str, str]:
    """Peers that cannot be had here, with the reason."""
    missing = {}
    for config in (arctic.CONFIGS[0], sglang_ngram.CONFIGS[0]):
        try:
            systems.make(config, SHAPES[1], vocab_size=100, capacity_tokens=100)
        except PeerUnavailable as error:
            missing[config.system] = str(error)
    return missing


def _texts(sets: Sequence[traces.TraceSet], tokenizer: Tokenizer | None, wanted: int, siblings: int) -> list[Text]:
    texts = []
    for one in sets:
        assert tokenizer is not None
        groups = tokens.groups_of(one, tokenizer, tokens=wanted, siblings=siblings)
        if groups:
            texts.append(Text(one.name, True, groups))
        else:
            _warn(f"{one.name} holds no generated token and is left out")
    count = max(wanted // (synthetic.MEAN_TOKENS * siblings), 1)
    made = synthetic.groups(count=count, siblings=siblings, mean_tokens=synthetic.MEAN_TOKENS)
    return [*texts, Text(GENERATED, False, made)]


def _replay_all(texts: Sequence[Text], settings: Settings, missing: dict[str, str], jobs: int) -> list[Replayed]:
    """Every configuration with every shape on every set, in that order whatever the number of processes."""
    tasks = [
        (text, config, shape)
        for text in texts
        for config in (*seer.CONFIGS, *settings.peers)
        for shape in SHAPES
        if config.system not in missing and shape.name in config.shapes and shape.name in settings.shapes
    ]
    if jobs == 1:
        outcomes = []
        for place, task in enumerate(tasks):
            if place == 0 or tasks[place - 1][0] is not task[0]:
                _warn(f"replaying {task[0].name}")
            outcomes.append(_replay_one(task))
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            outcomes = list(pool.map(_replay_one, tasks))
    return [
        Replayed(text.name, text.real, config, shape, outcome)
        for (text, config, shape), outcome in zip(tasks, outcomes, strict=True)
    ]


def _replay_one(task: tuple[Text, Config, Shape]) -> Outcome:
    text, config, shape = task
    size = sum(len(group.prompt) + sum(len(r.tokens) for r in group.responses) for group in text.groups)
    drafter = systems.make(config, shape, vocab_size=tokens.VOCAB_SIZE, capacity_tokens=size)
    return replay(drafter, text.groups, shape)


def _time_all(
    sets: Sequence[traces.TraceSet], tokenizer: Tokenizer | None, settings: Settings, missing: dict[str, str]
) -> list[Row]:
    ours = seer.CONFIGS[0]
    shapes = [shape for shape in SHAPES if shape.name in settings.shapes]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in settings.cases:
            path = Path(folder) / f"{case.name}.npy"
            real = scale.write(case, sets, tokenizer, path, shapes=len(shapes))
            _warn(f"timing {case.name}: {case.groups} groups, {real} of them real text")
            measured: dict[str, list[pairs.Measured]] = {}
            peers = [config for config in settings.timed_peers if config.system not in missing]
            for config, asked in _duels(peers, shapes):
                _warn(f"timing {case.name}: {ours.system} and {config.system}/{config.name}")
                both = [ours, config] if config != ours else [ours]
                for one in pairs.measure(both, asked, case, path, tokens.VOCAB_SIZE):
                    measured.setdefault(f"{one.config.system}/{one.config.name}", []).append(one)
            for found in measured.values():
                rows += figures.timing_rows(case, found)
            path.unlink()
    return rows


def _duels(peers: Sequence[Config], shapes: Sequence[Shape]) -> list[tuple[Config, list[Shape]]]:
    """Who runs against us with which shapes: SGLang's corpus is made for one width, so each width is a process."""
    duels: list[tuple[Config, list[Shape]]] = []
    for config in peers:
        able = [shape for shape in shapes if shape.name in config.shapes]
        duels += [(config, [shape]) for shape in able] if config.system == "sglang_ngram" else [(config, able)]
    return duels or [(seer.CONFIGS[0], list(shapes))]
