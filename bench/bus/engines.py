"""Two real Seer engines on the CPU with groups split over them, sharing nothing, over ZeroMQ, and over Redis.

Sample i of each group goes to engine i modulo 2. Seeds are fixed, so samples are the same in all three cases, and only
how many tokens a verification step yields may differ. Every step verifies all nodes that the index proposes: the budget
follows measured step times, and those say more of what else the machine does.

What traffic costs a step is measured apart, on engines that draft nothing: steps of equal size do the same work then,
while text is written, sent, received and indexed as ever. All pairs of engines are up at once and take turns.
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
from typing import Any, NamedTuple

import requests

from bench.rows import ROOT
from sglang_seer.demo.buses import address
from sglang_seer.demo.redis_server import programs
from sglang_seer.demo.servers import Server, ServerPlan, pick_port, serve

REASONER = ROOT / "examples" / "tiny_reasoner"
ENGINES = 2
START_TIMEOUT_S = 240.0
REQUEST_TIMEOUT_S = 300.0
ENVIRONMENT = {"SGLANG_PLATFORM": "seer_cpu", "HF_HUB_OFFLINE": "1"}
# Runs in an engine's process before anything else.
ALL_NODES = """
import numpy as np
import sglang_seer.engine.pacing as pacing
pacing.Pacer.begin = lambda self, batch: self._widths[-1]
pacing.Pacer.choose = lambda self, proposal, context, priorities: (proposal, int(np.diff(proposal.starts).max()))
"""
# Times what is between two steps of equally many requests, nothing else in between: by the clock, and in CPU time of
# the thread that decodes. Told once, then forgotten.
NO_NODES = """
import time
from statistics import median
import sglang_seer.engine.pacing as pacing
from sglang_seer.draft.controller import Controller
from sglang_seer.status import STATUS
Controller.nodes = lambda self, batch: 0
begin, interrupt = pacing.Pacer.begin, pacing.Pacer.interrupt
last, seen = [0, 0.0, 0.0], {}
def told():
    found = {batch: [len(times), *map(median, zip(*times))] for batch, times in seen.items()}
    seen.clear()
    return found
STATUS.sources["bench"] = told
def timed_begin(self, batch):
    now, cpu = time.perf_counter(), time.thread_time()
    if last[0] == batch:
        seen.setdefault(batch, []).append((now - last[1], cpu - last[2]))
    last[:] = batch, now, cpu
    return begin(self, batch)
def timed_interrupt(self):
    last[0] = 0
    interrupt(self)
pacing.Pacer.begin, pacing.Pacer.interrupt = timed_begin, timed_interrupt
"""


@dataclass(frozen=True, slots=True)
class Rollout:
    """prompts x samples requests of at most `limit` tokens; running: most at once on an engine."""

    prompts: int
    samples: int
    limit: int = 1024
    running: int = 12


class Steps(NamedTuple):
    """Of batches of one size on one engine: how many, and the medians of what one took, in seconds."""

    count: int
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """tokens: of each sample. steps: verification steps of all. timed: by engine and size of the batch, where steps are
    timed. received_tokens: over the bus."""

    tokens: list[list[int]]
    steps: int
    timed: dict[tuple[int, str], Steps]
    received_tokens: int

    @property
    def acceptance(self) -> float:
        """Tokens a verification step, bonus included; the first token of a sample comes from prefill."""
        return sum(len(one) - 1 for one in self.tokens) / self.steps

    def step_ms(self, by: str) -> float:
        """Mean over the steps; each counts as the median of its engine and size. by: `wall_s` or `cpu_s`."""
        steps = sum(one.count for one in self.timed.values())
        return 1e3 * sum(one.count * getattr(one, by) for one in self.timed.values()) / steps

    def step_over(self, other: Outcome, by: str) -> float:
        """What a step takes over what it takes there, for the sizes that both had, as often as both had them."""
        both = [(self.timed[key], other.timed[key]) for key in self.timed.keys() & other.timed.keys()]
        mine, theirs = (
            sum(min(pair[0].count, pair[1].count) * getattr(pair[side], by) for pair in both) for side in (0, 1)
        )
        return mine / theirs


def buses() -> list[str]:
    """Ways to share that this machine has."""
    return ["none", "ipc", *(["redis"] if programs() else [])]


def run(rollout: Rollout, repetitions: int, *, drafts: bool = True) -> dict[str, list[Outcome]]:
    """The rollout by bus, again and again in turn on the same engines, which forget what they know in between.

    drafts: every step verifies all nodes; without, none, and steps are timed.
    """
    prompts = _prompts(rollout.prompts)
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        (folder / "sitecustomize.py").write_text(ALL_NODES if drafts else NO_NODES)
        pairs: dict[str, list[Server]] = {}
        for bus in buses():
            options = {} if bus == "none" else {"bus": stack.enter_context(address(bus, folder))}
            plans = [_plan(f"{bus}{number}", folder, rollout, options) for number in range(ENGINES)]
            pairs[bus] = [stack.enter_context(serve(plan, folder)) for plan in plans]
            for server in pairs[bus]:
                server.wait_until_ready(START_TIMEOUT_S)
        outcomes: dict[str, list[Outcome]] = {bus: [] for bus in pairs}
        for repetition in range(repetitions):
            for bus, servers in pairs.items():
                for server in servers:
                    # As a trainer does; on Redis the text of other weights stays.
                    _post(server, "update_weight_version", {"new_version": f"w{repetition}"})
                    _post(server, "flush_cache", {})
                outcomes[bus].append(_roll_out(servers, prompts, rollout))
        return outcomes


def _plan(label: str, folder: Path, rollout: Rollout, options: dict[str, Any]) -> ServerPlan:
    flags = (
        *("--model-path", str(REASONER / "model"), "--dtype", "float32"),
        *("--max-total-tokens", str(2 * rollout.running * rollout.limit)),
        *("--max-running-requests", str(rollout.running)),
        "--enable-deterministic-inference",
        # The others' engines are up as well.
        "--sleep-on-idle",
        *("--scheduler-policy", "seer", "--seer-config", json.dumps(options)),
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return ServerPlan(label=label, port=pick_port(None), flags=flags, environment=environment)


def _prompts(count: int) -> list[list[int]]:
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


def _roll_out(servers: Sequence[Server], prompts: Sequence[list[int]], rollout: Rollout) -> Outcome:
    def generate(job: tuple[int, int]) -> Any:
        prompt, sample = job
        sampling = {
            "temperature": 1.0,
            "max_new_tokens": rollout.limit,
            "sampling_seed": 10_000 * prompt + sample,
            "custom_params": {"seer": {"group": f"g{prompt}", "sample": sample}},
        }
        body = {"input_ids": prompts[prompt], "sampling_params": sampling}
        return _post(servers[sample % ENGINES], "generate", body).json()

    jobs = [(prompt, sample) for prompt in range(len(prompts)) for sample in range(rollout.samples)]
    before = [_said(server) for server in servers]
    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(pool.map(generate, jobs))
    after = [_said(server) for server in servers]
    steps = sum(answer["meta_info"]["spec_verify_ct"] for answer in answers)
    timed = {
        (engine, size): Steps(*numbers)
        for engine, status in enumerate(after)
        for size, numbers in status.get("bench", {}).items()
    }
    received = sum(_received(status) for status in after) - sum(_received(status) for status in before)
    return Outcome([answer["output_ids"] for answer in answers], steps, timed, received)


def _said(server: Server) -> dict[str, Any]:
    """Seer's status."""
    info = requests.get(f"{server.plan.url}/server_info", timeout=REQUEST_TIMEOUT_S).json()
    status: dict[str, Any] = info["internal_states"][0]["sglang_seer"]
    return status


def _received(status: dict[str, Any]) -> int:
    return int(status.get("bus", {}).get("received_tokens", 0))


def _post(server: Server, path: str, body: Any) -> requests.Response:
    answer = requests.post(f"{server.plan.url}/{path}", json=body, timeout=REQUEST_TIMEOUT_S)
    answer.raise_for_status()
    return answer
