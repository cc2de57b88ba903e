"""SGLang 0.5.15: as 0.5.23 in what a speculative worker gets and returns, as 0.5.12 in where configuration is."""

from __future__ import annotations

from typing import Any

from sglang.srt.arg_groups.overrides import resolved_view
from sglang.srt.runtime_context import get_parallel
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
from sglang.srt.speculative.spec_utils import move_accept_tokens_to_target_kvcache, record_stream_for_v2_verify
from sglang.srt.speculative.triton_ops.cache_locs import assign_extend_cache_locs_func
from sglang.srt.utils.async_probe import sanitize_nan_logits

from sglang_seer.patches.adapter_older import *  # noqa: F403
from sglang_seer.patches.spec_v2 import (
    SWAPS_WIDTHS,
    relay,
    step_result,
    take_batch,
    verify_input,
)

__all__ = [
    "SWAPS_WIDTHS",
    "assign_extend_cache_locs_func",
    "get_parallel",
    "move_accept_tokens_to_target_kvcache",
    "record_stream_for_v2_verify",
    "relay",
    "sanitize_nan_logits",
    "step_result",
    "take_batch",
    "verify_input",
]

# slime's launcher builds its arguments before plugins are loaded.
TAKES_OVER_NGRAM = True
create_future_map = SpeculativeAlgorithm.create_future_map


def resolved(server_args: Any) -> Any:
    """Server arguments with what other arguments imply."""
    return resolved_view(server_args)


def speculation_reasons(server_args: Any) -> list[str]:
    """What this line cannot speculate with, besides what no line can."""
    return []


def allows_trees(server_args: Any) -> bool:
    """Whether KV of draft trees can be allocated."""
    return True


def input_tokens(request: Any) -> int:
    """Tokens that a waiting request has so far, prompt and generated."""
    return len(request.full_untruncated_fill_ids)


def extend_tokens(request: Any) -> int:
    """Tokens that a request prefills in the batch it was taken into."""
    return int(request.extend_range.length)
