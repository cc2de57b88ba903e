"""Log-probabilities of emitted tokens in the two conventions that SGLang offers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sglang_seer.verify.law import SamplingRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprobs:
    """What to compute beside the tokens.

    tempered: log softmax of logits / temperature, SGLang's default (without temperature if all rows are greedy).
    original: log softmax of the logits (SGLANG_RETURN_ORIGINAL_LOGPROB). Neither sees top-k, top-p or min-p.
    top: how many of the largest log-probabilities of each emitted token's row; tempered unless only `original` is set.
    """

    tempered: bool = False
    original: bool = False
    top: int = 0

    @property
    def top_tempered(self) -> bool:
        return self.tempered or not self.original


def log_softmax_rows(logits: torch.Tensor, divisors: torch.Tensor | None) -> torch.Tensor:
    """[rows, vocab] float32; minus infinity becomes the lowest float, as in SGLang. divisors: [rows] temperatures."""
    logits = logits.float()
    if divisors is not None:
        logits = logits / divisors[:, None]
    return torch.log_softmax(logits, dim=-1).clamp_(min=torch.finfo(torch.float32).min)


def emitted_logprobs(
    logits: torch.Tensor, nodes: torch.Tensor, tokens: torch.Tensor, rows: SamplingRows, want: Logprobs
) -> dict[str, torch.Tensor]:
    """The log-probability fields of `Accepted` that are wanted.

    logits: [bs * width, vocab], transforms applied. nodes, tokens: [bs, width] as in `Accepted`. Slots behind an
    accepted run hold 0, their top tokens -1.
    """
    bs, width = nodes.shape
    emitted = nodes.flatten() >= 0
    picked = nodes.flatten().clamp(min=0).long()
    fields: dict[str, torch.Tensor] = {}
    divisors = rows.repeat(width).divisors
    conventions = {"logprobs": divisors if want.tempered else None, "original_logprobs": None}
    wanted = {"logprobs": want.tempered, "original_logprobs": want.original}
    for name, by in conventions.items():
        if wanted[name]:
            values = log_softmax_rows(logits[picked], by).gather(1, tokens.flatten()[:, None].long()).view(-1)
            fields[name] = torch.where(emitted, values, 0.0).view(bs, width)
    if want.top:
        values, indices = log_softmax_rows(logits[picked], divisors if want.top_tempered else None).sort(
            dim=-1, descending=True, stable=True
        )
        fields["top_logprobs"] = torch.where(emitted[:, None], values[:, : want.top], 0.0).view(bs, width, -1)
        top_tokens = torch.where(emitted[:, None], indices[:, : want.top], -1).to(torch.int32)
        fields["top_tokens"] = top_tokens.view(bs, width, -1)
    return fields
