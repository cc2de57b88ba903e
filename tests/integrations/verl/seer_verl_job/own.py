"""veRL's own SGLang servers, from its manager of them to its agent loops: `python -m seer_verl_job.own PLAN`.

PLAN: a JSON file with model, prompts, folder, ray, out. With SGLANG_SEER=on in the environment the server has Seer in
it. Without, it is a stock one, on which veRL's own path runs too: what it gives is what is wanted of both.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import yaml
from safetensors.torch import load_file, save_file
from verl.checkpoint_engine.base import CheckpointEngineManager
from verl.experimental.agent_loop import AgentLoopWorker
from verl.utils.import_utils import load_class_from_fqn
from verl.workers.rollout.llm_server import LLMServerManager

from seer_verl_job.folder_weights import NoTrainers, file_of
from seer_verl_job.job import CHUNK_TOKENS, LONG_TOKENS, batch, client, configuration, settled, shown, start_ray
from sglang_seer.integrations.verl.facts import ask
from sglang_seer.rollout.client import EngineClient, EngineError

ROLLOUT = "actor_rollout_ref.rollout"
MANAGER = "sglang_seer.integrations.verl.SeerAgentLoopManager"
# What a CPU wants of SGLang, and what makes runs comparable. model_path: see `tokenizer_folder`.
ENGINE = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "enable_memory_saver": False,
    "enable_deterministic_inference": True,
    "max_total_tokens": 6144,
    "sleep_on_idle": True,
}
SETTINGS = {
    "nnodes": 1,
    "n_gpus_per_node": 1,
    "tensor_model_parallel_size": 1,
    "dtype": "float32",
    "load_format": "auto",
    "enforce_eager": "true",
    "max_num_seqs": 12,
    "free_cache_engine": "false",
    "checkpoint_engine.backend": "folder",
    "checkpoint_engine.custom_backend_module": "seer_verl_job.folder_weights",
}
LONG = {"ignore_eos": True, "max_tokens": LONG_TOKENS}


def settings(plan: dict[str, Any], *, seer: bool) -> list[str]:
    """More of veRL's configuration. seer: with the line that docs/verl.md has for drafts."""
    engine = {**ENGINE, "model_path": plan["model"], **({"speculative_algorithm": "SEER"} if seer else {})}
    return [
        *(f"{ROLLOUT}.{name}={value}" for name, value in SETTINGS.items()),
        f"+{ROLLOUT}.checkpoint_engine.engine_kwargs.folder.folder={plan['folder']}",
        *(f"+{ROLLOUT}.engine_kwargs.sglang.{name}={value}" for name, value in engine.items()),
        f"+{ROLLOUT}.agent.agent_loop_manager_class={MANAGER}",
    ]


async def internal_state(address: str) -> dict[str, Any] | None:
    """Of an engine's scheduler; None where the engine cannot say it, see `facts.ask`."""
    async with EngineClient(f"http://{address}") as engine:
        try:
            info = await engine.server_info()
        except EngineError:
            return None
    state: dict[str, Any] = info["internal_states"][0]
    return state


class Own:
    """One server of veRL's, its own path where it is stock, and Seer's."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan, self.seer = plan, os.environ.get("SGLANG_SEER") == "on"
        folder, model = Path(plan["folder"]), Path(plan["model"])
        router = folder / "router.yaml"
        chunks = {"chunk_tokens": CHUNK_TOKENS, "backoff_s": 0.3}
        router.write_text(yaml.safe_dump({"router_class": "sglang_seer.integrations.verl.SeerRouter", "seer": chunks}))
        more = settings(plan, seer=self.seer)
        plain = configuration(model, folder, workers=1, router=None, more=more)
        config = configuration(model, folder, workers=1, router=str(router), more=more)
        self.servers = LLMServerManager.create(config if self.seer else plain)
        if self.seer:
            self.client = self.servers.get_client()
        else:
            # Without an actor of its own, which takes seconds to import veRL.
            self.own = AgentLoopWorker(plain, self.servers.get_client())
            named = zip(self.servers.get_addresses(), self.servers.server_handles, strict=True)
            self.client = client(config, dict(named))
        loops = load_class_from_fqn(config.actor_rollout_ref.rollout.agent.agent_loop_manager_class)
        self.loops = loops.create(config=config, llm_client=self.client)
        self.weights = CheckpointEngineManager(
            config.actor_rollout_ref.rollout.checkpoint_engine, NoTrainers(), self.servers.get_replicas()
        )
        self.out: dict[str, Any] = {"replicas": [type(one).__name__ for one in self.servers.get_replicas()]}

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = ray.get(self.client._load_balancer.get_status.remote())["seer"]
        return status

    def case(
        self, name: str, sampling: dict[str, Any], *, during: Callable[[], None] | None = None, like: str | None = None
    ) -> None:
        """One batch. during: what happens to Seer's side meanwhile. like: the case whose groups, and seeds, it has."""
        prompts = self.plan["prompts"]
        groups = [f"{like or name}-{number}" for number in range(len(prompts))]
        found: dict[str, Any] = {}
        if not self.seer:
            own = batch(prompts, groups, samples=4, sampling=sampling, seeded=True)
            found["wanted"] = shown(asyncio.run(self.own.generate_sequences(own)))
        asked = batch(prompts, groups, samples=4, sampling=sampling, seeded=False)
        before = self.status()
        thread = threading.Thread(target=during) if during else None
        if thread:
            thread.start()
        found["got"] = shown(self.loops.generate_sequences(asked))
        if thread:
            thread.join()
        self.out[name] = {**found, "before": before, "after": settled(self.status)}

    def abort(self) -> None:
        """As veRL before an update of weights, in the middle of a rollout."""
        chunks = self.status()["chunks"]
        while self.status()["chunks"] < chunks + 20:
            time.sleep(0.01)
        self.weights.abort_replicas()
        time.sleep(0.2)
        self.weights.resume_generation_replicas()

    def update_weights(self) -> None:
        """To weights that say something else, then a rollout with the seeds of the first one."""
        weights = load_file(Path(self.plan["model"]) / "model.safetensors")
        weights["model.norm.weight"] = weights["model.norm.weight"] * 0.7
        save_file(weights, file_of(Path(self.plan["folder"]), 1))
        self.weights.update_weights(global_steps=1)
        self.case("weights", {}, like="plain")

    def engines(self) -> None:
        """What the router makes of the server, and what the server says of Seer."""
        (address,) = self.servers.get_addresses()
        self.out["facts"] = asdict(asyncio.run(ask(address)))
        state = asyncio.run(internal_state(address))
        self.out["seer"] = state and state.get("sglang_seer")

    def run(self) -> None:
        """Every step; one that fails is told and does not stop the others."""
        steps: dict[str, Callable[[], None]] = {
            "plain": lambda: self.case("plain", {}),
            "limit at a seam": lambda: self.case("limit at a seam", {**LONG, "max_tokens": 3 * CHUNK_TOKENS}),
            "abort": lambda: self.case("abort", LONG, during=self.abort),
            "weights": self.update_weights,
            "engines": self.engines,
        }
        self.out["errors"] = {}
        for name, step in steps.items():
            try:
                step()
            except Exception:  # noqa: BLE001 - the test shows it
                self.out["errors"][name] = traceback.format_exc()[-3000:]
            Path(self.plan["out"]).write_text(json.dumps(self.out, default=lambda value: value.item()))


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    start_ray(Path(plan["ray"]), gpus=1)
    try:
        Own(plan).run()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
