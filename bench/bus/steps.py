"""What traffic costs a decode step: one engine, whose siblings elsewhere write in every other second.

Seconds with traffic are compared with the quiet ones on either side, on the same engine and in one rollout, because
engines differ by more than traffic costs. Only steps of the full batch count, and nothing is drafted, so that they do
the same work; the engine publishes its own text all the time.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.bus import engines
from bench.paired import Step, over_quiet, own_us
from sglang_seer.demo.buses import address
from sglang_seer.demo.servers import Server, serve
from sglang_seer.draft.bus import deltas, share_text

# Runs in the engine's process before anything else: one entry a step of as many requests as the step before it, with
# nothing else in between. What is told is forgotten.
RECORD = """
import time
import sglang_seer.engine.pacing as pacing
import sglang_seer.engine.sharing as sharing
from sglang_seer.draft.controller import Controller
from sglang_seer.status import STATUS
Controller.nodes = lambda self, batch: 0
begin, interrupt, follow = pacing.Pacer.begin, pacing.Pacer.interrupt, sharing.Sharing.follow
last, seen, groups = [0, 0.0, 0.0], [], {}
# Calls of the thread that decodes, one inside of another now and then, and their time since the last step.
depth, own = [0], [0.0]
def clocked(call):
    def around(self, *arguments):
        depth[0] += 1
        began = time.perf_counter()
        try:
            return call(self, *arguments)
        finally:
            depth[0] -= 1
            if not depth[0]:
                own[0] += time.perf_counter() - began
    return around
for name in ("receive", "absorb", "settle", "publish", "finish", "lengths", "close_all_but"):
    setattr(sharing.Sharing, name, clocked(getattr(sharing.Sharing, name)))
def told():
    found = {"steps": list(seen), "groups": dict(groups)}
    seen.clear()
    groups.clear()
    return found
STATUS.sources["bench"] = told
def timed_begin(self, batch):
    now, cpu = time.monotonic(), time.thread_time()
    if last[0] == batch:
        seen.append((batch, now, now - last[1], cpu - last[2], own[0]))
    last[:], own[0] = (batch, now, cpu), 0.0
    return begin(self, batch)
def timed_interrupt(self):
    last[0] = 0
    interrupt(self)
def noted_follow(self, state, opened):
    groups[str(state.index_group)] = self._version
    follow(self, state, opened)
pacing.Pacer.begin, pacing.Pacer.interrupt, sharing.Sharing.follow = timed_begin, timed_interrupt, noted_follow
"""
STEP_S = 0.05
# Of the first response elsewhere.
FIRST_NUMBER = 1 << 31
# As long as siblings get; then the next one of the group begins.
LENGTH = 2000
JOIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is written elsewhere: tokens a second in windows of `window_s`, each followed by as much silence."""

    name: str
    tokens_per_s: float
    window_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds with traffic over the quiet ones around them, one number each: median steps by the clock, and in CPU
    time. own_us: of a step with traffic in Seer's sharing, on the thread that decodes. received_tokens: that the engine
    took."""

    wall: list[float]
    cpu: list[float]
    step_ms: float
    own_us: float
    received_tokens: int


def run(bus: str, traffic: Traffic, *, requests: int = 12, limit: int = 1500, rounds: int = 3) -> Outcome:
    """Raises RuntimeError where no text crossed, or where no second could be compared."""
    prompts = engines.prompts(requests)
    with tempfile.TemporaryDirectory() as place, address(bus, Path(place)) as url:
        folder = Path(place)
        (folder / "sitecustomize.py").write_text(RECORD)
        plan = engines.plan("steps", folder, engines.Rollout(requests, 1, limit, requests), {"bus": url})
        with serve(plan, folder) as server:
            server.wait_until_ready(engines.START_TIMEOUT_S)
            # Without the group of the server's first request.
            engines.said(server)
            # Opens the groups, so that it is known how the bus names them.
            _roll_out(server, prompts, 8)
            groups = engines.said(server)["bench"]["groups"]
            with _Elsewhere(url, groups, traffic) as elsewhere:
                for _ in range(rounds):
                    _roll_out(server, prompts, limit)
                spans = elsewhere.spans()
            status = engines.said(server)
    steps = [Step(*numbers) for numbers in status["bench"]["steps"]]
    received = int(status["bus"]["received_tokens"])
    if not received:
        raise RuntimeError(f"bus {bus}: no text crossed")
    full = [step for step in steps if step.batch == requests]
    wall, cpu = (over_quiet(full, spans, by) for by in ("wall_s", "cpu_s"))
    if not wall:
        raise RuntimeError(f"bus {bus}: no second with traffic has a quiet one on either side")
    return Outcome(wall, cpu, 1e3 * median(step.wall_s for step in full), own_us(full, spans), received)


class _Elsewhere:
    """A process that writes as an engine would, as long as the context lasts."""

    def __init__(self, url: str, groups: dict[str, int], traffic: Traffic) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_write, args=(url, groups, traffic, theirs), daemon=True)

    def __enter__(self) -> _Elsewhere:
        self._process.start()
        return self

    def spans(self) -> list[tuple[float, float]]:
        """Ends the traffic: when there was some. Raises RuntimeError if the process does not tell."""
        try:
            self._pipe.send(None)
            if not self._pipe.poll(JOIN_S):
                raise RuntimeError(f"bus: who writes did not end within {JOIN_S:.0f} s")
            found: list[tuple[float, float]] = self._pipe.recv()
        except (OSError, EOFError) as error:
            raise RuntimeError("bus: who writes has ended early") from error
        return found

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        self._process.join()


def _write(url: str, groups: dict[str, int], traffic: Traffic, pipe: Connection) -> None:
    (version,) = set(groups.values())
    shared = share_text(url, version=version, vocab_size=engines.VOCAB_SIZE)
    assert shared is not None
    rng = np.random.default_rng(0)
    names = np.array([int(group) for group in groups], dtype=np.int64)
    number = count(FIRST_NUMBER)
    # One response of each group is written at a time, by as many tokens a step as the rate asks for.
    piece = max(round(traffic.tokens_per_s * STEP_S / len(names)), 1)
    requests, offset = np.array([next(number) for _ in names]), 0
    spans: list[tuple[float, float]] = []
    while not pipe.poll(traffic.window_s):
        begun_s = time.monotonic()
        for step in range(round(traffic.window_s / STEP_S)):
            if offset + piece > LENGTH:
                requests, offset = np.array([next(number) for _ in names]), 0
            tokens = rng.integers(0, engines.VOCAB_SIZE, piece * len(names))
            same = np.full(len(names), 1)
            shared.publish(deltas(names, requests, offset * same, piece * same, tokens))
            offset += piece
            time.sleep(max(begun_s + (step + 1) * STEP_S - time.monotonic(), 0.0))
        spans.append((begun_s, time.monotonic()))
    pipe.send(spans)
    shared.close()


def _roll_out(server: Server, prompts: Sequence[list[int]], limit: int) -> None:
    """One request of each prompt, all at once, each exactly `limit` tokens long."""

    def generate(number: int) -> Any:
        sampling = {
            "temperature": 1.0,
            "max_new_tokens": limit,
            "ignore_eos": True,
            "sampling_seed": number,
            "custom_params": {"seer": {"group": f"g{number}"}},
        }
        return engines.post(server, "generate", {"input_ids": prompts[number], "sampling_params": sampling})

    with ThreadPoolExecutor(len(prompts)) as pool:
        list(pool.map(generate, range(len(prompts))))
