"""`python -m sglang_seer bench steps`: how long a decode step takes by batch, draft nodes and context.

One real engine with Seer and a model of random weights. Of each batch size and context all widths run in turn, a dozen
steps each, so that what drifts meets all of them alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import torch

from bench.replay import model
from bench.rollout.measure import START_TIMEOUT_S
from bench.rows import ROOT, header, write_json
from bench.steps import curves, engine
from bench.steps.curves import Cell
from sglang_seer.demo.servers import Server, ServerError, ServerPlan, pick_port
from sglang_seer.demo.side import started
from sglang_seer.draft.step_time import StepObservation
from sglang_seer.rollout.client import EngineClient, EngineError
from sglang_seer.rollout.records import GenerateRequest

PACKAGES = ("sglang-seer", "sglang", "torch", "triton")
CELL_TIMEOUT_S = 240.0
NOT_SHOWN = (
    "Random weights and padding in place of drafts: times are those of the shape. What drafting takes, and moving the "
    "KV of accepted nodes of a tree, is not in it."
)


class Endless(GenerateRequest, frozen=True, kw_only=True):
    """A request that goes on to its limit."""

    def body(self) -> dict[str, Any]:
        """The JSON body for SGLang's /generate."""
        body = GenerateRequest.body(self)
        body["sampling_params"]["ignore_eos"] = True
        return body


def main(argv: Sequence[str]) -> int:
    """0 when measured, 1 where nothing could be, 2 for bad arguments or an engine that fails."""
    options = _parse(argv)
    folder = Path(tempfile.mkdtemp(prefix="seer-steps-"))
    try:
        cells, left_out, capacity = _measure(options, folder)
        if not cells:
            print(f"steps: no cell was measured: {left_out}", file=sys.stderr)
            return 1
        _write(options, cells, left_out, capacity)
    except (ValueError, OSError, ServerError) as error:
        print(f"steps: {error}", file=sys.stderr)
        return 2
    shutil.rmtree(folder)
    print(curves.curves_table(options.shape, cells))
    for cell, reason in left_out.items():
        print(f"steps: {cell} left out: {reason}")
    print(NOT_SHOWN)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench steps", description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write header and rows")
    parser.add_argument("--profile", type=Path, help="where to write what step_time_profile takes")
    parser.add_argument("--sim-profile", type=Path, help="where to write what simulate --profile takes")
    parser.add_argument("--shape", choices=model.SHAPES, default="tiny", help="of the model (default tiny)")
    parser.add_argument("--dtype", default="float32", help="of the model (default float32)")
    parser.add_argument("--batches", default="1,4", help="requests of a step, by comma (default 1,4)")
    parser.add_argument("--contexts", default="64", help="tokens of a prompt, by comma (default 64)")
    parser.add_argument("--draft-nodes", type=int, default=16, help="the widest step's (default 16)")
    parser.add_argument("--rounds", type=int, default=1, help=f"times {engine.HOLD} steps of each width (default 1)")
    parser.add_argument("--budget-s", type=float, default=1e9, help="begin no batch after so many seconds")
    parser.add_argument("--engine-flag", action="append", default=[], help="for the engine, such as --engine-flag=-x")
    options = parser.parse_args(argv)
    for name in ("batches", "contexts"):
        text = getattr(options, name)
        if not all(one.isdigit() and int(one) > 0 for one in text.split(",")):
            parser.error(f"--{name}: wanted numbers from 1 by comma, saw {text!r}")
        setattr(options, name, sorted({int(one) for one in text.split(",")}))
    if options.rounds < 1:
        parser.error(f"--rounds: wanted at least 1, saw {options.rounds}")
    if not 1 <= options.draft_nodes <= 63:
        parser.error(f"--draft-nodes: wanted 1 to 63, saw {options.draft_nodes}")
    return options


def _measure(
    options: argparse.Namespace, folder: Path
) -> tuple[dict[Cell, list[StepObservation]], dict[str, str], int]:
    """Steps by cell, reasons of what was left out, and the engine's KV slots."""
    began_s = time.monotonic()
    longest = max(options.contexts) + _tokens(options)
    model.write(folder / "model", model.SHAPES[options.shape], context_tokens=longest + 64, dtype=options.dtype)
    (folder / "sitecustomize.py").write_text(engine.SITECUSTOMIZE)
    plan = ServerPlan(
        label="steps",
        port=pick_port(None),
        flags=(
            *("--model-path", str(folder / "model"), "--load-format", "dummy", "--dtype", options.dtype),
            *("--max-running-requests", str(max(options.batches)), "--skip-tokenizer-init"),
            *("--scheduler-policy", "seer", "--seer-config", json.dumps({"draft_nodes": options.draft_nodes})),
            # On a CPU nothing else bounds the pool.
            *(() if torch.cuda.is_available() else ("--max-total-tokens", str(2 * max(options.batches) * longest))),
            *options.engine_flag,
        ),
        environment={
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]),
            engine.PATH: str(folder / "steps.jsonl"),
            **({} if torch.cuda.is_available() else {"SGLANG_PLATFORM": "seer_cpu"}),
        },
    )
    with started("steps", [plan], folder, START_TIMEOUT_S) as (server,):
        try:
            return asyncio.run(_cells(options, server, folder / "steps.jsonl", began_s))
        except (EngineError, aiohttp.ClientError, TimeoutError) as error:
            server.check()
            raise server.error(f"{type(error).__name__}: {error}") from error


def _tokens(options: argparse.Namespace) -> int:
    """Of a response: so many rounds of all widths, and some while the last requests are still prefilled."""
    return (int(options.rounds) * 4 + 1) * engine.HOLD


async def _cells(
    options: argparse.Namespace, server: Server, path: Path, began_s: float
) -> tuple[dict[Cell, list[StepObservation]], dict[str, str], int]:
    cells: dict[Cell, list[StepObservation]] = {}
    left_out: dict[str, str] = {}
    async with EngineClient(server.plan.url) as client:
        capacity = (await client.load()).capacity_tokens
        for context in options.contexts:
            for batch in options.batches:
                name = f"context {context}, batch {batch}"
                wanted = batch * (context + _tokens(options))
                if wanted > capacity:
                    left_out[name] = f"{wanted} tokens, and the KV pool holds {capacity}"
                    continue
                if time.monotonic() - began_s > options.budget_s:
                    left_out[name] = f"{options.budget_s:.0f} s were over"
                    continue
                print(f"steps: {name}", file=sys.stderr, flush=True)
                path.unlink(missing_ok=True)
                requests = _requests(context, batch, _tokens(options), model.SHAPES[options.shape].vocab_size)
                await _generate(server, requests)
                found = curves.by_cell(_read(path), batch=batch, context_tokens=context)
                if not found:
                    left_out[name] = "too few steps had the whole batch"
                cells |= found
    return cells, left_out, capacity


async def _generate(server: Server, requests: Sequence[GenerateRequest]) -> None:
    """All in one call, so that the whole batch begins together. Raises ServerError for another status than 200."""
    bodies = [request.body() for request in requests]
    call = {name: [body[name] for body in bodies] for name in bodies[0]}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CELL_TIMEOUT_S)) as session,
        session.post(f"{server.plan.url}/generate", json=call) as answer,
    ):
        if answer.status != 200:
            raise server.error(f"/generate: status {answer.status}: {(await answer.text())[:200]}")
        await answer.read()


def _requests(context: int, batch: int, tokens: int, vocabulary: int) -> list[Endless]:
    """Each of its own group with a prompt of its own: no prefix is shared."""
    prompts = np.random.default_rng([context, batch]).integers(0, vocabulary, (batch, context))
    return [
        Endless(group=f"{context}/{number}", sample=0, input_ids=prompt, limit=tokens, seed=number)
        for number, prompt in enumerate(prompts.tolist())
    ]


def _read(path: Path) -> list[StepObservation]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=StepObservation) for line in lines]


def _write(
    options: argparse.Namespace, cells: dict[Cell, list[StepObservation]], left_out: dict[str, str], capacity: int
) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if options.json:
        settings = {name: str(value) for name, value in vars(options).items() if "json" not in name}
        head = header("python -m sglang_seer bench steps --json FILE ...", PACKAGES)
        write_json(
            options.json, head, curves.rows(options.shape, cells), settings=settings, not_shown=NOT_SHOWN,
            device=device, left_out=left_out, kv_capacity_tokens=capacity, load_average=list(os.getloadavg()),
        )  # fmt: skip
    if options.profile:
        options.profile.parent.mkdir(parents=True, exist_ok=True)
        curves.step_times(cells).save(options.profile)
    if options.sim_profile:
        value_bytes = torch.empty(0, dtype=getattr(torch, options.dtype)).element_size()
        made = curves.sim_profile(
            f"{options.shape} on {device}", model.SHAPES[options.shape], cells, capacity_tokens=capacity,
            value_bytes=value_bytes,
        )  # fmt: skip
        options.sim_profile.write_text(json.dumps(made, indent=1) + "\n")
