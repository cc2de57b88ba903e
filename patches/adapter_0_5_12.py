"""SGLang 0.5.12: speculative workers get a record made of the batch, and relay through a map that EAGLE's shape fits.

Only overlap scheduling has that protocol here; without it SGLang wants workers that finish requests themselves.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    get_tp_group,
)
from sglang.srt.managers.utils import GenerationBatchResult
from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode
from sglang.srt.speculative.eagle_info import EagleDraftInput
from sglang.srt.speculative.eagle_info_v2 import assign_extend_cache_locs_func
from sglang.srt.speculative.ngram_info import NgramVerifyInput

from sglang_seer.patches.adapter_older import *  # noqa: F403

__all__ = ["assign_extend_cache_locs_func"]

# NGRAM switches overlap scheduling off here, and whoever did it cannot be told apart.
TAKES_OVER_NGRAM = False
# Graphs here are captured for one width, and a worker has no say in when.
SWAPS_WIDTHS = False
# Schedulers make their map themselves.
create_future_map = None


def resolved(server_args: Any) -> Any:
    """Server arguments with what other arguments imply."""
    return server_args


def speculation_reasons(server_args: Any) -> list[str]:
    """What this line cannot speculate with, besides what no line can."""
    if not server_args.disable_overlap_schedule:
        return []
    return [
        "SGLang 0.5.12 without overlap scheduling (disable_overlap_schedule) has another protocol for speculative "
        'workers, which Seer does not speak: leave overlap on, or set {"speculation": false} in the seer config'
    ]


def allows_trees(server_args: Any) -> bool:
    """Whether KV of draft trees can be allocated: with larger pages only chains."""
    return server_args.page_size in (None, 1)


def get_parallel() -> SimpleNamespace:
    """The tensor-parallel group of this process."""
    return SimpleNamespace(
        tp_rank=get_tensor_model_parallel_rank(),
        tp_size=get_tensor_model_parallel_world_size(),
        tp_group=get_tp_group(),
    )


def input_tokens(request: Any) -> int:
    """Tokens that a waiting request has so far, prompt and generated."""
    return len(request.fill_ids)


def extend_tokens(request: Any) -> int:
    """Tokens that a request prefills in the batch it was taken into."""
    return int(request.extend_input_len)


def take_batch(worker: Any, batch: Any) -> None:
    """Complete what a worker gets with the pools, which newer lines keep in the batch."""
    batch.req_to_token_pool, _ = worker.target_worker.get_memory_pool()


def record_stream_for_v2_verify(batch: Any, _verify_input: Any, stream: Any) -> None:
    """Tensors of the scheduler's stream are read on this one."""
    for tensor in (batch.seq_lens, batch.req_pool_indices, batch.input_ids, batch.out_cache_loc):
        if tensor is not None and tensor.is_cuda:
            tensor.record_stream(stream)


def sanitize_nan_logits(_logits: torch.Tensor, _what: str) -> None:
    """This line does not look for broken logits here."""


def verify_input(
    *, tokens: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, width: int, seq_lens: torch.Tensor
) -> NgramVerifyInput:
    """What attention needs to know of the trees."""
    made = NgramVerifyInput(
        draft_token=tokens,
        # It also tells the device.
        tree_mask=tokens if mask is None else mask,
        positions=positions,
        retrieve_index=None,
        retrieve_next_token=None,
        retrieve_next_sibling=None,
        draft_token_num=width,
    )
    made.custom_mask = mask
    return made


def relay(*, stride: int, tokens: torch.Tensor, lengths: torch.Tensor, new_seq_lens: torch.Tensor) -> EagleDraftInput:
    """What the next step of these requests gets; tokens: [bs * stride]. Only lengths are read of it."""
    size, device = len(lengths), lengths.device
    verified = None
    if lengths.is_cuda:
        verified = torch.cuda.Event()
        verified.record()
    return EagleDraftInput(
        topk_p=torch.zeros((size, 1), device=device),
        topk_index=torch.zeros((size, 1), dtype=torch.int64, device=device),
        hidden_states=torch.zeros((size, 0), device=device),
        # No draft model is to read the target's.
        capture_hidden_mode=CaptureHiddenMode.NULL,
        bonus_tokens=tokens.view(size, stride)[:, 0],
        new_seq_lens=new_seq_lens,
        verify_done=verified,
    )


def step_result(*, new_seq_lens: torch.Tensor, **fields: Any) -> GenerationBatchResult:
    """The result of a decode step; the new lengths are in what it relays."""
    return GenerationBatchResult(**fields)


def move_accept_tokens_to_target_kvcache(
    batch: Any, accept_index: torch.Tensor, num_correct_drafts: torch.Tensor, token_to_kv_pool_allocator: Any
) -> None:
    """Move the KV of accepted nodes behind each request's tokens.

    accept_index: [bs, width] rows of the step, -1 where none. num_correct_drafts: [bs], bonus left out.
    """
    places = torch.arange(accept_index.shape[1], device=accept_index.device)
    accepted = places <= num_correct_drafts[:, None]
    positions = torch.where(accepted, batch.seq_lens[:, None] + places, 0)
    slots = batch.req_to_token_pool.req_to_token[batch.req_pool_indices[:, None], positions]
    # Slot 0 is padding: what is not accepted is moved from there to there.
    targets = torch.where(accepted, slots, 0)
    sources = torch.where(accepted, batch.out_cache_loc[accept_index.clamp(min=0).long()], 0)
    token_to_kv_pool_allocator.get_kvcache().move_kv_cache(targets.flatten().long(), sources.flatten().long())
