"""What SGLang's forward pass gets for one decode step: a verification of trees, or plain decoding of the roots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from sglang_seer.patches.adapter import line


def _cache_slots(batch: Any, width: int) -> torch.Tensor:
    """[bs * width] KV slots behind each request's tokens; SGLang has reserved them."""
    return line.assign_extend_cache_locs_func(
        req_pool_indices=batch.req_pool_indices,
        req_to_token=batch.req_to_token_pool.req_to_token,
        start_offset=batch.seq_lens,
        end_offset=batch.seq_lens + width,
        batch_size=len(batch.reqs),
        draft_token_num=width,
        device=batch.seq_lens.device,
    )


def set_verify_input(
    batch: Any, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, width: int
) -> None:
    """Turn a decode batch into a verification batch.

    tokens, positions: [bs * width] int64. mask: flat bool, SGLang's FULL_MASK (on the CPU platform also the trees
    alone); None where attention is causal among the nodes.
    """
    batch.forward_mode = ForwardMode.TARGET_VERIFY
    batch.input_ids = tokens
    batch.out_cache_loc = _cache_slots(batch, width)
    batch.spec_info = line.verify_input(
        tokens=tokens, mask=mask, positions=positions, width=width, seq_lens=batch.seq_lens
    )


@contextmanager
def plain_decode_input(batch: Any, tokens: torch.Tensor) -> Iterator[None]:
    """Make it a decode batch as a server without speculation has it, for one forward pass.

    tokens: [bs] int64. Without speculation a request's length counts the token that is fed.
    """
    lengths = batch.seq_lens, batch.seq_lens_cpu, batch.seq_lens_sum
    batch.input_ids = tokens
    batch.out_cache_loc = _cache_slots(batch, 1)
    batch.spec_info = None
    batch.seq_lens = batch.seq_lens + 1
    if batch.seq_lens_cpu is not None:
        batch.seq_lens_cpu = batch.seq_lens_cpu + 1
    if batch.seq_lens_sum is not None:
        batch.seq_lens_sum = batch.seq_lens_sum + len(batch.reqs)
    try:
        yield
    finally:
        batch.seq_lens, batch.seq_lens_cpu, batch.seq_lens_sum = lengths
