"""One GRPO update: rewards of groups in, changed weights out. Plain torch, no engine.

GRPO (DeepSeekMath, arXiv 2402.03300): a sample's advantage is its reward against its siblings'. One update follows
each rollout, so the samples are of the very weights that are updated: the ratio to the old policy is 1, nothing is
clipped, and the gradient is that of the mean of advantage times log-probability. There is no KL term.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# Equal rewards have no spread; DeepSeekMath's formula divides by it.
LEAST_SPREAD = 1e-6
# Padding of one pass through the model counts.
PASS_TOKENS = 8192
MOST_GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Rewarded:
    """One sample: tokens of its prompt, tokens of its response, its reward, the name of its group."""

    group: str
    prompt_ids: Sequence[int]
    output_ids: Sequence[int]
    reward: float


def advantages(samples: Sequence[Rewarded]) -> list[float]:
    """Of each sample: how many standard deviations of its group its reward lies above the group's mean."""
    groups: dict[str, list[float]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample.reward)
    mean = {name: sum(rewards) / len(rewards) for name, rewards in groups.items()}
    spread = {
        name: (sum((reward - mean[name]) ** 2 for reward in rewards) / len(rewards)) ** 0.5
        for name, rewards in groups.items()
    }
    return [(one.reward - mean[one.group]) / (spread[one.group] + LEAST_SPREAD) for one in samples]


def new_optimizer(model: torch.nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)


def update(model: Any, optimizer: torch.optim.Optimizer, samples: Sequence[Rewarded], *, pad_id: int) -> float:
    """One step on all samples; the loss before it: minus the mean of advantage times a response's mean log-probability.

    Groups in which all rewards are equal teach nothing and are not computed. The same weights and samples in the same
    order give the same bits on one thread.
    """
    taught = [(one, a) for one, a in zip(samples, advantages(samples), strict=True) if a]
    optimizer.zero_grad()
    loss = 0.0
    for batch in batches(taught):
        part = batch_loss(model, batch, pad_id=pad_id) / len(samples)
        part.backward()
        loss += part.item()
    if taught:
        torch.nn.utils.clip_grad_norm_(model.parameters(), MOST_GRADIENT_NORM)
        optimizer.step()
    return loss


def batches(taught: Sequence[tuple[Rewarded, float]]) -> Iterator[list[tuple[Rewarded, float]]]:
    """Samples of like length together, at most PASS_TOKENS with their padding, and at least one."""
    batch: list[tuple[Rewarded, float]] = []
    for one in sorted(taught, key=lambda one: len(one[0].prompt_ids) + len(one[0].output_ids)):
        longest = len(one[0].prompt_ids) + len(one[0].output_ids)
        if batch and longest * (len(batch) + 1) > PASS_TOKENS:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def batch_loss(model: Any, batch: Sequence[tuple[Rewarded, float]], *, pad_id: int) -> torch.Tensor:
    """[] float32: the sum over the samples."""
    longest = max(len(one.prompt_ids) + len(one.output_ids) for one, _ in batch)
    # [samples, longest]; padding on the right, so causal attention needs no mask.
    tokens = torch.full((len(batch), longest), pad_id)
    weights = torch.zeros(len(batch), longest)
    for row, (one, advantage) in enumerate(batch):
        begin, end = len(one.prompt_ids), len(one.prompt_ids) + len(one.output_ids)
        tokens[row, :end] = torch.tensor([*one.prompt_ids, *one.output_ids])
        weights[row, begin:end] = advantage / len(one.output_ids)
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    log_probs = -torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return -(weights[:, 1:] * log_probs).sum()
