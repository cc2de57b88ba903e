"""`python -m sglang_seer bench replay`: rollouts in which engines generate recorded responses.

The model has random weights and any size: what it samples is forced to be the record, in plain decoding and in every
draft tree alike. So what is measured is what real text, its lengths and its likeness cost, without a download.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.draft import synthetic, tokens, traces
from bench.replay import engine, model, record
from bench.rollout import figures
from bench.rollout.command import systems_table
from bench.rollout.measure import Engines, repeated
from bench.rollout.systems import parsed
from bench.rows import ROOT, header, write_json
from sglang_seer.demo.plan import POOL_SPARE_TOKENS
from sglang_seer.demo.servers import ServerError
from sglang_seer.rollout.records import GenerateRequest
from sglang_seer.rollout.synchronous import Rollout

PACKAGES = ("sglang-seer", "sglang", "torch", "triton")
DEFAULT = ("fcfs", "lof", "ngram", "ngram-chain-4", "drop-in", "divided", "context", "seer")
TOKENIZER_CHARS = 8_000_000
POOL_SHARE = 0.25
NOT_SHOWN = (
    "Random weights: times are those of the shape, what is sampled is the record. Acceptance is that of drafts against "
    "recorded text. Longer responses than were recorded are siblings' text joined."
)


def main(argv: Sequence[str]) -> int:
    """0 when measured, 1 where a sample is not the recorded one, 2 for bad arguments or an engine that fails."""
    options = _parse(argv)
    folder = Path(tempfile.mkdtemp(prefix="seer-replay-"))
    try:
        name, groups = _groups(options)
        tail = record.LongTail(mean_tokens=options.mean_tokens) if options.mean_tokens else None
        wanted = record.responses(groups, samples=options.n, limit=options.limit, tail=tail)
        requests = _requests(options, groups)
        engines = _engines(options, groups, wanted, folder)
        rollouts = repeated(options.systems, [(engines, requests)] * options.repetitions, folder)
        other = not_recorded(rollouts, wanted)
        if other:
            print(f"replay: samples are not the recorded ones: {other}; logs in {folder}", file=sys.stderr)
            return 1
        lengths = "recorded lengths" if tail is None else f"long tail, mean {options.mean_tokens}"
        case = f"{name}, {options.shape}, {len(groups)} x {options.n}, {lengths}, {options.engines} engines"
        rows = figures.rows(rollouts, case, "replay")
        if options.json:
            settings = {name: str(value) for name, value in vars(options).items() if name not in ("json", "data")}
            head = header("python -m sglang_seer bench replay --json FILE ...", PACKAGES)
            write_json(
                options.json, head, rows, settings=settings, not_shown=NOT_SHOWN, device=_device(),
                load_average=list(os.getloadavg()),
            )  # fmt: skip
    except (ValueError, OSError, ServerError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    shutil.rmtree(folder)
    print(systems_table(case, rows))
    print(NOT_SHOWN)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench replay", description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write header and rows")
    parser.add_argument("--data", type=Path, help="trace file (*.jsonl.zst) or folder; without it, generated text")
    parser.add_argument("--shape", choices=model.SHAPES, default="tiny", help="of the model (default tiny)")
    parser.add_argument("--dtype", default="float32", help="of the model (default float32)")
    parser.add_argument("--prompts", type=int, default=16, help="groups (default 16)")
    parser.add_argument("--n", type=int, default=16, help="samples a group (default 16)")
    parser.add_argument("--limit", type=int, default=2048, help="most tokens of a response (default 2048)")
    parser.add_argument("--mean-tokens", type=int, help="give responses a long tail of this mean; default: as recorded")
    parser.add_argument("--engines", type=int, default=1, help="of a side, all on this machine (default 1)")
    parser.add_argument("--running", type=int, default=64, help="most requests on an engine at a time (default 64)")
    parser.add_argument("--chunk-tokens", type=int, default=512, help="of divided rollouts (default 512)")
    parser.add_argument("--kv-tokens", type=int, help="KV slots of an engine; default: a quarter of the demand")
    parser.add_argument("--engine-flag", action="append", default=[], help="for every engine, such as --engine-flag=-x")
    parser.add_argument("--systems", default=",".join(DEFAULT), help=f"by comma (default {','.join(DEFAULT)})")
    parser.add_argument("--repetitions", type=int, default=3, help="of every system (default 3)")
    options = parser.parse_args(argv)
    for name in ("prompts", "n", "limit", "engines", "running", "chunk_tokens", "repetitions"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: wanted at least 1, saw {getattr(options, name)}")
    try:
        options.systems = parsed(options.systems)
    except ValueError as error:
        parser.error(str(error))
    return options


def _groups(options: argparse.Namespace) -> tuple[str, list[tokens.TokenGroup]]:
    """The record's name, and `prompts` groups of `n` responses each."""
    if options.data is None:
        made = synthetic.groups(count=options.prompts, siblings=options.n, mean_tokens=synthetic.MEAN_TOKENS)
        return "generated", made
    sets = traces.read_folder(options.data) if options.data.is_dir() else [traces.read_file(options.data)]
    tokenizer = tokens.tokenizer_of(sets, most_chars=TOKENIZER_CHARS)
    found = [
        group
        for one in sets
        for group in tokens.groups_of(one, tokenizer, tokens=1 << 60, siblings=options.n, fewest=options.n)
        if len(group.responses) >= options.n
    ]
    if len(found) < options.prompts:
        raise ValueError(
            f"{options.data}: wanted {options.prompts} prompts with {options.n} responses each, saw {len(found)}"
        )
    return "+".join(one.name for one in sets), found[: options.prompts]


def _requests(options: argparse.Namespace, groups: Sequence[tokens.TokenGroup]) -> list[GenerateRequest]:
    return [
        GenerateRequest(
            group=f"g{number}",
            sample=sample,
            input_ids=group.prompt.tolist(),
            limit=options.limit,
            seed=number * options.n + sample,
        )
        for number, group in enumerate(groups)
        for sample in range(options.n)
    ]


def _engines(
    options: argparse.Namespace, groups: Sequence[tokens.TokenGroup], wanted: dict[str, tokens.Tokens], folder: Path
) -> Engines:
    longest = max(len(group.prompt) for group in groups) + options.limit
    demand = sum(len(one) for one in wanted.values()) + sum(len(group.prompt) for group in groups)
    kv_tokens = options.kv_tokens or max(int(POOL_SHARE * demand / options.engines), longest + POOL_SPARE_TOKENS)
    model.write(folder / "model", model.SHAPES[options.shape], context_tokens=longest + 64, dtype=options.dtype)
    record.write(folder / "record.npz", wanted)
    (folder / "sitecustomize.py").write_text(engine.SITECUSTOMIZE)
    return Engines(
        count=options.engines,
        flags=(
            *("--model-path", str(folder / "model"), "--load-format", "dummy", "--dtype", options.dtype),
            *("--max-total-tokens", str(kv_tokens), "--max-running-requests", str(options.running)),
            *("--skip-tokenizer-init", "--enable-metrics", *options.engine_flag),
        ),
        environment={
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]),
            engine.PATH: str(folder / "record.npz"),
            **({} if torch.cuda.is_available() else {"SGLANG_PLATFORM": "seer_cpu"}),
        },
        chunk_tokens=options.chunk_tokens,
    )


def not_recorded(rollouts: dict[str, list[Rollout]], wanted: dict[str, tokens.Tokens]) -> dict[str, int]:
    """Samples that are not as recorded, by system that has any."""
    found = {
        name: sum(
            one.output_ids != wanted[record.key(one.group, one.sample)].tolist()
            for rollout in made
            for one in rollout.generations
        )
        for name, made in rollouts.items()
    }
    return {name: count for name, count in found.items() if count}


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
