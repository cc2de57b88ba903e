"""Index kernels of the KV cache in plain torch.

SGLang launches them as ``kernel[grid](...)``. Sizes are small (requests x draft
tokens), so each is a handful of vectorised operators here, and the grid and the
compile-time sizes at the end of the arguments are not needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class TorchKernel:
    """A function with the launch syntax of a Triton kernel."""

    function: Callable[..., None]

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self.function


def _window_cells(start: torch.Tensor, end: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row number and column of every cell of the windows ``[start[i], end[i])``.

    Args:
        start, end: [num_reqs] integers.

    Returns:
        Two [sum(end - start)] int64 tensors, request by request.
    """
    start, lengths = start.long(), (end - start).long()
    rows = torch.repeat_interleave(torch.arange(start.numel()), lengths)
    first_cell = torch.cumsum(lengths, 0) - lengths
    columns = torch.arange(rows.numel()) - first_cell[rows] + start[rows]
    return rows, columns


def assign_req_to_token_pool(
    req_pool_indices: torch.Tensor,  # [num_reqs] int64
    req_to_token: torch.Tensor,  # [pool_size, max_context] int32, written
    start_offset: torch.Tensor,  # [num_reqs] int
    end_offset: torch.Tensor,  # [num_reqs] int
    out_cache_loc: torch.Tensor,  # [sum(end - start)] int
    *sizes: int,
) -> None:
    """Write slots into each request's window. Replaces the kernel of that name."""
    rows, columns = _window_cells(start_offset, end_offset)
    slots = out_cache_loc[: rows.numel()]
    req_to_token[req_pool_indices[rows], columns] = slots.to(req_to_token.dtype)


def assign_extend_cache_locs(
    req_pool_indices: torch.Tensor,  # [num_reqs] int64
    req_to_token: torch.Tensor,  # [pool_size, max_context] int
    start_offset: torch.Tensor,  # [num_reqs] int
    end_offset: torch.Tensor,  # [num_reqs] int
    out_cache_loc: torch.Tensor,  # written, packed
    *sizes: int,
) -> None:
    """Read the slots of each request's window. Replaces the kernel of that name."""
    rows, columns = _window_cells(start_offset, end_offset)
    slots = req_to_token[req_pool_indices[rows], columns]
    out_cache_loc[: rows.numel()] = slots.to(out_cache_loc.dtype)


def fill_accept_out_cache_loc(
    accept_index: torch.Tensor,  # [num_reqs, depth] int32, -1 where nothing
    out_cache_loc: torch.Tensor,  # [num_reqs * width] int64
    accept_out_cache_loc: torch.Tensor,  # written, packed
    *sizes: int,
) -> None:
    """Slots of the accepted nodes. Replaces the kernel of that name."""
    flat = accept_index.flatten()
    kept = flat[flat >= 0].long()
    accept_out_cache_loc[: kept.numel()] = out_cache_loc[kept]


def fill_bonus_tokens(
    accept_tokens: torch.Tensor,  # [num_reqs * accept_stride]
    accept_lens: torch.Tensor,  # [num_reqs] int, bonus included
    bonus_tokens: torch.Tensor,  # [num_reqs], written
    accept_stride: int,
) -> None:
    """Last accepted token of each request. Replaces the kernel of that name."""
    row_begins = torch.arange(accept_lens.numel()) * accept_stride
    last = accept_tokens[row_begins + accept_lens.long() - 1]
    bonus_tokens[: last.numel()] = last.to(bonus_tokens.dtype)


def speculative_cache_locs(
    *,
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    batch_size: int,
    draft_token_num: int,
    device: Any,
) -> torch.Tensor:
    """Slots of the draft windows, [batch_size * draft_token_num] int64.

    Replaces ``assign_extend_cache_locs_func``; the answer of
    ``SRTPlatform.get_speculative_cache_locs_fn`` where a platform may give one.
    """
    out_cache_loc = torch.empty(batch_size * draft_token_num, dtype=torch.int64)
    assign_extend_cache_locs(req_pool_indices, req_to_token, start_offset, end_offset, out_cache_loc)
    return out_cache_loc


def skip_kv_copy_warmup(pool: Any) -> None:
    """Replace ``MHATokenToKVPool._init_kv_copy_and_warmup``.

    It compiles a tiled byte copy; SGLANG_NATIVE_MOVE_KV_CACHE moves rows with torch.
    """
    pool._kv_copy_config = None
