"""Two real Seer engines on the CPU with groups split over them, sharing nothing, over ZeroMQ, and over Redis.

Sample i of each group goes to engine i modulo 2. Seeds are fixed, so samples are the same in all three cases, and only
how many tokens a verification step yields may differ. Every step verifies all nodes that the index proposes: the budget
follows measured step times, and those say more of what else the machine does.

All pairs of engines are up at once and take turns.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import requests

from bench.rows import ROOT
from sglang_seer.demo.buses import address
from sglang_seer.demo.redis_server import programs
from sglang_seer.demo.servers import Server, ServerPlan, pick_port, serve

REASONER = ROOT / "examples" / "tiny_reasoner"
ENGINES = 2
START_TIMEOUT_S = 240.0
REQUEST_TIMEOUT_S = 300.0
# Of the tiny reasoner.
VOCAB_SIZE = 384
ENVIRONMENT = {"SGLANG_PLATFORM": "seer_cpu", "HF_HUB_OFFLINE": "1"}
# Runs in an engine's process before anything else.
ALL_NODES = """
import numpy as np
import sglang_seer.engine.pacing as pacing
pacing.Pacer.begin = lambda self, batch: self._widths[-1]
pacing.Pacer.choose = lambda self, proposal, context, priorities: (proposal, int(np.diff(proposal.starts).max()))
"""


@dataclass(frozen=True, slots=True)
class Rollout:
    """prompts x samples requests of at most `limit` tokens; running: most at once on an engine."""

    prompts: int
    samples: int
    limit: int = 1024
    running: int = 12


@dataclass(frozen=True, slots=True)
class Outcome:
    """tokens: of each sample. steps: verification steps of all. received_tokens: over the bus."""

    tokens: list[list[int]]
    steps: int
    received_tokens: int

    @property
    def acceptance(self) -> float:
        """Tokens a verification step, bonus included; the first token of a sample comes from prefill."""
        return sum(len(one) - 1 for one in self.tokens) / self.steps


def buses() -> list[str]:
    """Ways to share that this machine has."""
    return ["none", "ipc", *(["redis"] if programs() else [])]


def run(rollout: Rollout, repetitions: int) -> dict[str, list[Outcome]]:
    """The rollout by bus, again and again in turn on the same engines, which forget what they know in between."""
    texts = prompts(rollout.prompts)
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        (folder / "sitecustomize.py").write_text(ALL_NODES)
        pairs: dict[str, list[Server]] = {}
        for bus in buses():
            options = {} if bus == "none" else {"bus": stack.enter_context(address(bus, folder))}
            plans = [plan(f"{bus}{number}", folder, rollout, options) for number in range(ENGINES)]
            pairs[bus] = [stack.enter_context(serve(plan, folder)) for plan in plans]
            for server in pairs[bus]:
                server.wait_until_ready(START_TIMEOUT_S)
        outcomes: dict[str, list[Outcome]] = {bus: [] for bus in pairs}
        for repetition in range(repetitions):
            for bus, servers in pairs.items():
                for server in servers:
                    # As a trainer does; on Redis the text of other weights stays.
                    post(server, "update_weight_version", {"new_version": f"w{repetition}"})
                    post(server, "flush_cache", {})
                outcomes[bus].append(_roll_out(servers, texts, rollout))
        return outcomes


def plan(label: str, folder: Path, rollout: Rollout, options: dict[str, Any]) -> ServerPlan:
    return ServerPlan(
        label=label,
        port=pick_port(None),
        flags=(*stock_flags(rollout), "--scheduler-policy", "seer", "--seer-config", json.dumps(options)),
        environment=environment(folder),
    )


def stock_flags(rollout: Rollout) -> tuple[str, ...]:
    """Of an engine that can hold what runs at a time."""
    return (
        *("--model-path", str(REASONER / "model"), "--dtype", "float32"),
        *("--max-total-tokens", str(2 * rollout.running * rollout.limit)),
        *("--max-running-requests", str(rollout.running)),
        "--enable-deterministic-inference",
        # The others' engines are up as well.
        "--sleep-on-idle",
    )


def environment(folder: Path) -> dict[str, str]:
    """folder: of the `sitecustomize` that the engine runs first."""
    return {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def prompts(count: int) -> list[list[int]]:
    """Token ids of chats for the tiny reasoner."""
    from transformers import AutoTokenizer

    sys.path.insert(0, str(REASONER))
    try:
        make: Any = import_module("prompts")
    finally:
        sys.path.remove(str(REASONER))
    tokenizer = AutoTokenizer.from_pretrained(REASONER / "model")

    def ids(text: str) -> list[int]:
        chat = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        found: list[int] = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return found

    return [ids(line["prompt"]) for line in make.make_prompts(seed=0, n=count)]


def _roll_out(servers: Sequence[Server], texts: Sequence[list[int]], rollout: Rollout) -> Outcome:
    def generate(job: tuple[int, int]) -> Any:
        prompt, sample = job
        sampling = {
            "temperature": 1.0,
            "max_new_tokens": rollout.limit,
            "sampling_seed": 10_000 * prompt + sample,
            "custom_params": {"seer": {"group": f"g{prompt}", "sample": sample}},
        }
        body = {"input_ids": texts[prompt], "sampling_params": sampling}
        return post(servers[sample % ENGINES], "generate", body).json()

    jobs = [(prompt, sample) for prompt in range(len(texts)) for sample in range(rollout.samples)]
    before = [said(server) for server in servers]
    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(pool.map(generate, jobs))
    after = [said(server) for server in servers]
    steps = sum(answer["meta_info"]["spec_verify_ct"] for answer in answers)
    received = sum(_received(status) for status in after) - sum(_received(status) for status in before)
    return Outcome([answer["output_ids"] for answer in answers], steps, received)


def said(server: Server) -> dict[str, Any]:
    """Seer's status."""
    info = requests.get(f"{server.plan.url}/server_info", timeout=REQUEST_TIMEOUT_S).json()
    status: dict[str, Any] = info["internal_states"][0]["sglang_seer"]
    return status


def _received(status: dict[str, Any]) -> int:
    return int(status.get("bus", {}).get("received_tokens", 0))


def post(server: Server, path: str, body: Any) -> requests.Response:
    """Raises requests.RequestException where the server does not do it."""
    answer = requests.post(f"{server.plan.url}/{path}", json=body, timeout=REQUEST_TIMEOUT_S)
    answer.raise_for_status()
    return answer
