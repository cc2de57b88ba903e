"""A veRL job without training: its configuration, its managers, and batches for them. Runs in veRL's environment."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
import torch
import verl
from hydra import compose, initialize_config_dir
from verl.protocol import DataProto
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.router import get_router_handle

from seer_verl_job.adapter import HttpServer
from sglang_seer.rollout.samples import sample_seed

HERE = Path(__file__).resolve().parent
PROMPT_LENGTH, RESPONSE_LENGTH, CHUNK_TOKENS = 256, 240, 16
# So many tokens that a chunk which breaks off costs one more.
LONG_TOKENS = 13 * CHUNK_TOKENS
SEED = 42
SETTLE_S = 30.0


def tokenizer_folder(model: Path, folder: Path) -> Path:
    """The model's tokenizer and configuration for veRL alone, which takes a Qwen3 to speak ChatML: this one does not.

    The engines serve the model itself. Its chat template has no word for a turn without text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["chat_template"] = settings["chat_template"].replace("message['content']", "(message['content'] or '')")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )
    return folder


def configuration(model: Path, folder: Path, *, workers: int, router: str | None, more: Sequence[str] = ()) -> Any:
    """veRL's own defaults with what this job sets. more: settings of the caller."""
    rollout = "actor_rollout_ref.rollout"
    overrides = [
        f"actor_rollout_ref.model.path={tokenizer_folder(model, folder / 'tokenizer')}",
        f"{rollout}.name=sglang",
        f"{rollout}.prompt_length={PROMPT_LENGTH}",
        f"{rollout}.response_length={RESPONSE_LENGTH}",
        f"{rollout}.agent.num_workers={workers}",
        f"{rollout}.agent.default_agent_loop=sampled",
        f"{rollout}.agent.agent_loop_config_path={HERE / 'agent_loops.yaml'}",
        f"{rollout}.multi_turn.function_tool_path={HERE / 'tools.py'}",
        f"{rollout}.multi_turn.format=every_turn",
        f"{rollout}.multi_turn.max_assistant_turns=2",
        f"{rollout}.seed={SEED}",
        f"{rollout}.router_config_path={router or 'null'}",
        *more,
    ]
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        return compose("ppo_trainer", overrides=overrides)


def recipe(folder: Path, lines: Sequence[str]) -> Any:
    """The example's configuration."""
    with initialize_config_dir(str(folder), version_base=None):
        return compose("grpo_qwen3_gsm8k", overrides=list(lines))


def servers(urls: Sequence[str]) -> dict[str, Any]:
    """Handles by address, as veRL names them."""
    return {
        url.removeprefix("http://"): HttpServer.remote(  # type: ignore[attr-defined]
            url, prompt_length=PROMPT_LENGTH, response_length=RESPONSE_LENGTH
        )
        for url in urls
    }


def client(config: Any, handles: dict[str, Any]) -> LLMServerClient:
    """As veRL's LLMServerManager makes it."""
    router = get_router_handle(handles, router_config_path=config.actor_rollout_ref.rollout.router_config_path)
    return LLMServerClient(config=config, load_balancer_handle=router)


class OneServer:
    """As a router with one server, in this process."""

    def __init__(self, handles: dict[str, Any]) -> None:
        self._server = next(iter(handles.items()))

    def __getattr__(self, name: str) -> Any:
        async def answer(**_: Any) -> Any:
            return self._server if name == "acquire_server" else []

        def remote(**options: Any) -> Any:
            return asyncio.get_running_loop().create_task(answer(**options))

        return SimpleNamespace(remote=remote)


def settled(status: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The router's status when nothing runs there any more: reports of workers come by themselves, some moments late.

    As it is after a while, where something stays.
    """
    deadline_s = time.monotonic() + SETTLE_S
    while (now := status()) and (now["waiting"] or now["running"]) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return now


def batch(
    prompts: Sequence[str],
    groups: Sequence[str],
    *,
    samples: int,
    sampling: dict[str, Any],
    seeded: bool,
    agent: str = "sampled",
) -> DataProto:
    """Whole groups one after the other. seeded: with the seeds that Seer's client gives to samples without one."""
    rows = [(prompt, group) for prompt, group in zip(prompts, groups, strict=True) for _ in range(samples)]
    # veRL numbers the whole batch; Seer takes this number for the sample's.
    seeds = [{"sampling_seed": sample_seed(SEED, group, row)} if seeded else {} for row, (_, group) in enumerate(rows)]
    columns = {
        "raw_prompt": [[{"role": "user", "content": prompt}] for prompt, _ in rows],
        "uid": [group for _, group in rows],
        "index": [groups.index(group) for _, group in rows],
        "agent_name": [agent] * len(rows),
        "sampling": [{**sampling, **seed} for seed in seeds],
    }
    table = {}
    for name, values in columns.items():
        table[name] = np.empty(len(values), dtype=object)
        table[name][:] = values
    dummy = torch.zeros(len(rows), 1, dtype=torch.uint8)
    return DataProto.from_dict(tensors={"dummy": dummy}, non_tensors=table, meta_info={"global_steps": 1})


def shown(output: DataProto) -> list[dict[str, Any]]:
    """What a trainer would see of each sample, without padding."""
    rows = []
    for row in range(len(output)):
        tensors = output.batch[row]
        mask = tensors["attention_mask"][PROMPT_LENGTH:].bool()
        rows.append(
            {
                "tokens": tensors["responses"][mask].tolist(),
                "mask": tensors["response_mask"][mask].tolist(),
                "logprobs": tensors["rollout_log_probs"][mask].tolist(),
                "counts": output.non_tensor_batch["counts"][row],
                "steps": [output.non_tensor_batch[f"{end}_global_steps"][row] for end in ("min", "max")],
            }
        )
    return rows


def start_ray(folder: Path, *, gpus: int = 0) -> None:
    """A small one of our own on this machine. gpus: as many as it is to believe in."""
    ray.init(
        num_cpus=8,
        num_gpus=gpus,
        include_dashboard=False,
        object_store_memory=128 << 20,
        _temp_dir=str(folder),
        log_to_driver=False,
        logging_level="ERROR",
    )
