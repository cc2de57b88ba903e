"""Puts the two rollouts side by side."""

import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from sglang_seer.demo.inputs import Prompt, Tokenizer
from sglang_seer.report.figures import side_figures
from sglang_seer.report.kept import Comparison, Run, Sample
from sglang_seer.rollout.records import GenerateRequest, Generation, Load
from sglang_seer.rollout.synchronous import Rollout

PACKAGES = ("sglang", "sglang-seer", "sglang-seer-cpu", "torch", "transformers")

Reward = Callable[[str, str], float]


def compare(
    *,
    prompts: Sequence[Prompt],
    requests: Sequence[GenerateRequest],
    stock: Rollout,
    seer: Rollout,
    tokenizer: Tokenizer,
    reward: Reward | None,
    settings: dict[str, Any],
) -> Comparison:
    """Both rollouts of the same requests; all in request order, `len(requests) / len(prompts)` a prompt."""
    samples_a_prompt = len(requests) // len(prompts)
    start_s = {label: _start_s(rollout) for label, rollout in (("stock", stock), ("seer", seer))}
    samples = []
    for index, (request, one, other) in enumerate(zip(requests, stock.generations, seer.generations, strict=True)):
        prompt = prompts[index // samples_a_prompt]
        text, value = _judge(one, prompt, tokenizer, reward)
        identical = one.output_ids == other.output_ids and one.finish_reason == other.finish_reason
        differences: dict[str, Any] = {}
        if not identical:
            other_text, other_value = _judge(other, prompt, tokenizer, reward)
            differences = {
                "seer_output_ids": other.output_ids,
                "seer_text": other_text,
                "seer_finish_reason": other.finish_reason,
                "seer_reward": other_value,
            }
        samples.append(
            Sample(
                group=request.group,
                sample=request.sample,
                seed=request.seed,
                prompt=prompt.prompt,
                answer=None if prompt.answer is None else str(prompt.answer),
                prompt_tokens=len(request.input_ids),
                output_ids=one.output_ids,
                text=text,
                finish_reason=one.finish_reason,
                reward=value,
                identical=identical,
                stock=run_of(one, start_s["stock"]),
                seer=run_of(other, start_s["seer"]),
                **differences,
            )
        )
    loads = {
        "stock": _shifted(stock.loads, start_s["stock"]),
        "seer": _shifted(seer.loads, start_s["seer"]),
    }
    return Comparison(samples=samples, loads=loads, settings=settings, machine=machine())


def acceptance_length(rollout: Rollout) -> float:
    """Tokens of a verification step, bonus included, over all samples."""
    runs = [run_of(generation, _start_s(rollout)) for generation in rollout.generations]
    return float(side_figures(runs)["acceptance_length"])


def identical(rollout: Rollout, stock: Rollout) -> int:
    """Samples that are those of stock."""
    pairs = zip(rollout.generations, stock.generations, strict=True)
    return sum((a.output_ids, a.finish_reason) == (b.output_ids, b.finish_reason) for a, b in pairs)


def _start_s(rollout: Rollout) -> float:
    return min(generation.submitted_s for generation in rollout.generations)


def _shifted(loads: Sequence[Load], start_s: float) -> list[Load]:
    return [msgspec.structs.replace(load, at_s=load.at_s - start_s) for load in loads]


def run_of(generation: Generation, start_s: float) -> Run:
    """Times from `start_s` on."""
    return Run(
        submitted_s=generation.submitted_s - start_s,
        first_s=None if generation.first_s is None else generation.first_s - start_s,
        finished_s=generation.finished_s - start_s,
        output_tokens=len(generation.output_ids),
        retractions=generation.retractions,
        verify_steps=generation.verify_steps,
    )


def _judge(
    generation: Generation, prompt: Prompt, tokenizer: Tokenizer, reward: Reward | None
) -> tuple[str, float | None]:
    text = tokenizer.decode(generation.output_ids, skip_special_tokens=True)
    if reward is None or prompt.answer is None:
        return text, None
    return text, float(reward(text, str(prompt.answer)))


def machine() -> dict[str, Any]:
    """Hardware and versions, as far as this machine tells them."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_name() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()
