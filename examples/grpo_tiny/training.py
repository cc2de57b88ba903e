"""One side's training: weights to the engines, a rollout, an update, again. Real engines, real gradients."""

import asyncio
import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import model_files
import torch
from grading import reward
from steps import Step, digest
from update import Rewarded, new_optimizer, update

from sglang_seer.demo.inputs import Prompt
from sglang_seer.demo.servers import Server, ServerPlan
from sglang_seer.demo.side import Progress, connected, started
from sglang_seer.rollout.client import RolloutError
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.records import GenerateRequest, Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The same for both sides. requests: of all steps, prompt after prompt, `size` a step; prompts: one a group."""

    prompts: Sequence[Prompt]
    requests: Sequence[GenerateRequest]
    size: int
    learning_rate: float
    start_timeout_s: float
    timeout_s: float

    @property
    def steps(self) -> int:
        return len(self.requests) // self.size


def train(
    label: str, plans: Sequence[ServerPlan], course: Course, folder: Path, controller: RolloutConfig | None
) -> list[Step]:
    """A training from the shipped weights on engines of its own. Raises ServerError where an engine fails."""
    with started(label, plans, folder, course.start_timeout_s) as servers:
        try:
            return asyncio.run(_train(label, servers, course, folder / label, controller))
        except TimeoutError as error:
            raise servers[0].error(f"a rollout took longer than {course.timeout_s:.0f} s") from error


async def _train(
    label: str, servers: Sequence[Server], course: Course, folder: Path, controller: RolloutConfig | None
) -> list[Step]:
    # More threads would add in an order of their own.
    torch.set_num_threads(1)
    model, tokenizer = model_files.load(model_files.DEFAULT_FOLDER)
    optimizer = new_optimizer(model, course.learning_rate)
    steps: list[Step] = []
    async with connected(servers, course.requests[: course.size], controller) as engines:
        for number in range(course.steps):
            begin_s = time.monotonic()
            # A folder and a version of each step's own: nothing that knows a name takes old weights for new ones.
            version = f"step-{number}"
            model_files.save(model, folder / version)
            await engines.update_weights(folder / version, version, course.timeout_s)
            shutil.rmtree(folder / version)
            requests = course.requests[number * course.size : (number + 1) * course.size]
            sent_s = time.monotonic()
            progress = Progress(f"{label} {number + 1}/{course.steps}", len(requests))
            try:
                rollout = await asyncio.wait_for(engines.roll_out(requests, progress), course.timeout_s)
            finally:
                progress.close()
            rolled_s = time.monotonic()
            check_versions(rollout.generations, version)
            samples = rewarded(requests, rollout.generations, course.prompts, tokenizer)
            # In a thread: the controller goes on looking at its engines meanwhile.
            loss = await asyncio.to_thread(update, model, optimizer, samples, pad_id=tokenizer.pad_token_id)
            steps.append(
                Step(
                    samples=[digest(one) for one in rollout.generations],
                    rewards=[one.reward for one in samples],
                    loss=loss,
                    weights=weights_digest(model),
                    output_tokens=sum(len(one.output_ids) for one in rollout.generations),
                    passes=sum(one.verify_steps or len(one.output_ids) for one in rollout.generations),
                    rollout_s=rolled_s - sent_s,
                    weights_s=sent_s - begin_s,
                    update_s=time.monotonic() - rolled_s,
                )
            )
            print(f"{label} {number + 1}/{course.steps}: reward {steps[-1].reward:.3f}, loss {loss:+.5f}", flush=True)
    return steps


def check_versions(generations: Sequence[Generation], version: str) -> None:
    """Raises RolloutError for a sample of other weights: it would teach what the model no longer does."""
    for one in generations:
        if one.weight_version != version:
            raise RolloutError(
                f"{one.group} sample {one.sample}: wanted weights {version!r}, saw {one.weight_version!r}"
            )


def rewarded(
    requests: Sequence[GenerateRequest], generations: Sequence[Generation], prompts: Sequence[Prompt], tokenizer: Any
) -> list[Rewarded]:
    """In request order."""
    answers = {f"g{number}": str(prompt.answer) for number, prompt in enumerate(prompts)}
    return [
        Rewarded(
            group=request.group,
            prompt_ids=request.input_ids,
            output_ids=one.output_ids,
            reward=reward(tokenizer.decode(one.output_ids, skip_special_tokens=True), answers[request.group]),
        )
        for request, one in zip(requests, generations, strict=True)
    ]


def weights_digest(model: torch.nn.Module) -> str:
    """16 hexadecimal digits of all weights, bit by bit."""
    content = hashlib.blake2b(digest_size=8)
    for tensor in model.state_dict().values():
        content.update(tensor.numpy())
    return content.hexdigest()
