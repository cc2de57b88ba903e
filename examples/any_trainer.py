"""GRPO with a trainer of your own: rollouts through RolloutController, new weights to the engines after each update.

python examples/any_trainer.py --engines URL URL --model FOLDER --prompts FILE --out FOLDER
Lines of FILE are {"prompt": text, "answer": number}; the engines serve the model in FOLDER and can read --out.
"""

import argparse
import asyncio
import json
import re
from itertools import cycle, islice
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_seer import RolloutController
from sglang_seer.rollout import Group, Prompt, Sample


async def reward(sample: Sample) -> float:
    """Awaited while other samples generate. Right is who ends in the answer."""
    return float(re.findall(r"-?\d+", sample.text or "")[-1:] == [sample.metadata])


def update(model: torch.nn.Module, optimizer: torch.optim.Optimizer, groups: list[Group]) -> None:
    """Your trainer: here one policy-gradient step, each sample's advantage its reward against its siblings'."""
    optimizer.zero_grad()
    for group in groups:
        rewards = torch.tensor([sample.reward for sample in group.samples])
        advantages = (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6)
        for sample, advantage in zip(group.samples, advantages, strict=True):
            tokens = torch.tensor([*sample.input_ids, *sample.output_ids])
            logits = model(input_ids=tokens[None, :-1]).logits[0, len(sample.input_ids) - 1 :]
            loss = torch.nn.functional.cross_entropy(logits, tokens[len(sample.input_ids) :])
            (advantage * loss / (len(groups) * len(rewards))).backward()
    optimizer.step()


async def main(args: argparse.Namespace) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(args.model), AutoModelForCausalLM.from_pretrained(args.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    sampling = {"temperature": 1.0, "max_new_tokens": args.limit}
    rows = cycle(json.loads(line) for line in args.prompts.read_text().splitlines())
    async with RolloutController(args.engines, tokenizer=tokenizer) as rollout:
        for step in range(1, args.steps + 1):
            prompts = [
                Prompt(
                    group=f"{step}-{number}",
                    messages=[{"role": "user", "content": row["prompt"]}],
                    metadata=str(row["answer"]),
                    samples=8,
                    sampling=sampling,
                )
                for number, row in enumerate(islice(rows, args.batch))
            ]
            groups = [group async for group in rollout.groups(prompts, reward=reward)]
            rewards = [sample.reward for group in groups for sample in group.samples]
            print(f"step {step}: {len(rewards)} samples, mean reward {sum(rewards) / len(rewards):.3f}", flush=True)
            await asyncio.to_thread(update, model, optimizer, groups)
            model.save_pretrained(args.out / f"step-{step}")
            await rollout.update_weights(args.out / f"step-{step}", f"step-{step}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", required=True)
    for name in ("--model", "--prompts", "--out"):
        parser.add_argument(name, type=Path, required=True)
    for name, default in (("--steps", 20), ("--batch", 16), ("--limit", 2048)):
        parser.add_argument(name, type=int, default=default)
    asyncio.run(main(parser.parse_args()))
