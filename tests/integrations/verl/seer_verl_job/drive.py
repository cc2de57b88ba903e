"""Runs the cases in veRL's environment and writes what came of them: `python -m seer_verl_job.drive PLAN`.

PLAN: a JSON file with engines (stock, seer_a, seer_b: URLs), the process group of seer_b, model, prompts, folder, out.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray
import yaml
from omegaconf import OmegaConf
from verl.experimental.agent_loop import AgentLoopWorker
from verl.utils.import_utils import load_class_from_fqn
from verl.workers.rollout.llm_server import LLMServerClient

from seer_verl_job.job import (
    CHUNK_TOKENS,
    LONG_TOKENS,
    OneServer,
    batch,
    client,
    configuration,
    recipe,
    servers,
    settled,
    shown,
    start_ray,
)
from sglang_seer.integrations.verl import SeerAgentLoopManager
from sglang_seer.integrations.verl.router import Router

ENDLESS = {"ignore_eos": True}
MOST_ABORTS = 100


def until_healthy(urls: Iterable[str]) -> None:
    """Engines start meanwhile; who waits for this process looks after them."""
    for url in urls:
        while True:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=30):
                    break
            except OSError:
                time.sleep(0.5)


class Drive:
    """Both sides of every case: veRL's own path on the stock engine, and Seer's on two others."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.prompts: list[str] = plan["prompts"]
        folder, model = Path(plan["folder"]), Path(plan["model"])
        self.router_file = folder / "router.yaml"
        router = {"router_class": "sglang_seer.integrations.verl.SeerRouter"}
        settings = {"chunk_tokens": CHUNK_TOKENS, "backoff_s": 0.3, "strikes": 2}
        self.router_file.write_text(yaml.safe_dump({**router, "seer": settings}))
        self.plain = configuration(model, folder, workers=1, router=None)
        self.config = configuration(model, folder, workers=2, router=str(self.router_file))
        self.handles = servers(plan["engines"].values())
        by_name = dict(zip(plan["engines"], self.handles.items(), strict=True))
        self.stock = dict([by_name["stock"]])
        self.seer = dict([by_name["seer_a"], by_name["seer_b"]])
        self.mixed = dict([by_name["stock"], by_name["seer_a"]])
        # Without an actor of its own: each takes seconds to import veRL.
        self.own = AgentLoopWorker(self.plain, LLMServerClient(self.plain, OneServer(self.stock)))
        until_healthy(plan["engines"].values())
        self.client = client(self.config, self.seer)
        self.manager = SeerAgentLoopManager.create(config=self.config, llm_client=self.client)
        self.out: dict[str, Any] = {}
        # As the case under way began.
        self.chunks_before = 0

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = ray.get(self.client._load_balancer.get_status.remote())
        return status

    def case(
        self, name: str, sampling: dict[str, Any], *, during: Callable[[], None] | None = None, **options: Any
    ) -> None:
        """One batch on both sides. during: what happens to Seer's side meanwhile."""
        options = {"prompts": self.prompts[:2], "samples": 4, **options}
        prompts = options.pop("prompts")
        groups = [f"{name}-{number}" for number in range(len(prompts))]
        own = batch(prompts, groups, sampling=sampling, seeded=True, **options)
        wanted = asyncio.run(self.own.generate_sequences(own))
        before = self.status()["seer"]
        self.chunks_before = before["chunks"]
        thread = threading.Thread(target=during) if during else None
        if thread:
            thread.start()
        got = self.manager.generate_sequences(batch(prompts, groups, sampling=sampling, seeded=False, **options))
        if thread:
            thread.join()
        after = settled(lambda: self.status()["seer"])
        self.out[name] = {"wanted": shown(wanted), "got": shown(got), "before": before, "after": after}

    def abort(self) -> None:
        """As veRL before an update of weights, in the middle of a rollout."""
        self.until_busy()
        # Chunks are short, and at one moment none may be under way.
        for _ in range(MOST_ABORTS):
            if sum(ray.get([handle.aborts.remote() for handle in self.seer.values()])):
                return
            ray.get([handle.abort_all_requests.remote() for handle in self.seer.values()])
            time.sleep(0.2)
            ray.get([handle.resume_generation.remote() for handle in self.seer.values()])

    def kill_one(self, sampling: dict[str, Any]) -> None:
        """One of the engines, in the middle of a rollout: it holds its requests, so that they cannot end before."""
        *_, held = self.seer.values()
        ray.get(held.abort_all_requests.remote())
        self.case("kill", sampling, during=self.kill)

    def kill(self) -> None:
        self.until_busy()
        os.killpg(self.plan["seer_b_group"], signal.SIGKILL)

    def until_busy(self) -> None:
        while self.status()["seer"]["chunks"] < self.chunks_before + 20:
            time.sleep(0.01)

    def update_weights(self) -> None:
        for step, side in ((1, self.handles), (2, self.handles)):
            ray.get([one.update_weights.remote(self.plan["model"], step) for one in side.values()])
            self.case(f"weights {step}", {})

    def refusals(self) -> None:
        """What a job that cannot run says."""
        other = LLMServerClient(self.config, OneServer(self.seer))
        refused: dict[str, Callable[[], Any]] = {
            "no router": lambda: SeerAgentLoopManager.create(config=self.plain, llm_client=other),
            "another router": lambda: SeerAgentLoopManager.create(config=self.config, llm_client=other),
            "mixed": lambda: asyncio.run(Router(self.mixed, {"router_class": "ours"}).check()),
            "router file": lambda: Router(self.seer, {"chunk_tokens": 8}),
        }
        for name, start in refused.items():
            try:
                start()
            except (RuntimeError, ValueError) as error:
                self.out[name] = str(error)
            else:
                self.out[name] = "it started"

    def recipe(self) -> None:
        """The example's configuration, with the lines that its script adds."""
        os.environ.update(DATA="data", MODEL="model", OUT="out", NAME="seer", GPUS="2")
        composed = recipe(Path(self.plan["recipe"]), self.plan["lines"])
        self.out["recipe"] = OmegaConf.to_container(composed.actor_rollout_ref.rollout, resolve=True)
        load_class_from_fqn(composed.actor_rollout_ref.rollout.agent.agent_loop_manager_class)

    def run(self) -> None:
        """Every step; one that fails is told and does not stop the others."""
        biased = {**self.plan["biased"], "max_tokens": 48}
        repeated = [*self.prompts[:2], self.prompts[0]]
        long = {**ENDLESS, "max_tokens": LONG_TOKENS}
        steps: dict[str, Callable[[], None]] = {
            "plain": lambda: self.case("plain", {}, prompts=repeated),
            "stop strings": lambda: self.case("stop strings", {"stop": self.plan["stops"], "max_tokens": 80}),
            "characters": lambda: self.case("characters", biased),
            "limit at a seam": lambda: self.case("limit at a seam", {**ENDLESS, "max_tokens": 3 * CHUNK_TOKENS}),
            "penalty": lambda: self.case("penalty", {"frequency_penalty": 0.5, "max_tokens": 40}),
            "tool": lambda: self.case("tool", {"max_tokens": 60}, agent="sampled_tool"),
            "abort": lambda: self.case("abort", long, during=self.abort),
            "weights": self.update_weights,
            "refusals": self.refusals,
            "recipe": self.recipe,
            "kill": lambda: self.kill_one(long),
        }
        self.out["errors"] = {}
        for name, step in steps.items():
            started_s = time.monotonic()
            try:
                step()
            except Exception:  # noqa: BLE001 - the test shows it
                self.out["errors"][name] = traceback.format_exc()[-3000:]
            print(f"{name}: {time.monotonic() - started_s:.1f} s", flush=True)
            self.out["limits"] = [ray.get(handle.limits.remote()) for handle in self.seer.values()]
            Path(self.plan["out"]).write_text(json.dumps(self.out, default=lambda value: value.item()))


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    start_ray(Path(plan["ray"]))
    try:
        Drive(plan).run()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
