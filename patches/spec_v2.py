"""Speculative workers since 0.5.15: they get the scheduler's batch, and relay to the next step what they like."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.managers.utils import GenerationBatchResult
from sglang.srt.speculative.ngram_info import NgramVerifyInput

# Attention states and graphs of several widths can stand beside each other.
SWAPS_WIDTHS = True


def take_batch(worker: Any, batch: Any) -> None:
    """Complete what a worker gets: nothing is missing."""


def verify_input(
    *, tokens: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, width: int, seq_lens: torch.Tensor
) -> NgramVerifyInput:
    """What attention needs to know of the trees."""
    return NgramVerifyInput(
        draft_token=tokens, custom_mask=mask, positions=positions, draft_token_num=width, new_seq_lens=seq_lens
    )


def relay(*, stride: int, tokens: torch.Tensor, lengths: torch.Tensor, new_seq_lens: torch.Tensor) -> NgramVerifyInput:
    """What the next step of these requests gets; tokens: [bs * stride]."""
    return NgramVerifyInput(
        draft_token_num=stride, new_seq_lens=new_seq_lens, accept_tokens=tokens, accept_lens=lengths
    )


def step_result(**fields: Any) -> GenerationBatchResult:
    """The result of a decode step."""
    return GenerationBatchResult(**fields)
