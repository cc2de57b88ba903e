"""SGLang 0.5.23: configuration is asked of its runtime context, KV of a request is a record of its own."""

from __future__ import annotations

from typing import Any

from sglang.kernels.ops.speculative.cache_locs import assign_extend_cache_locs_func
from sglang.srt.arg_groups.model_override_base import use_mla_backend
from sglang.srt.configs.hybrid_arch import mambaish_config
from sglang.srt.layers.logprob_processor import compute_spec_logprobs
from sglang.srt.mem_cache.common import release_kv_cache
from sglang.srt.runtime_context import get_parallel, get_schedule, get_serving, get_spec
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
from sglang.srt.speculative.spec_utils import move_accept_tokens_to_target_kvcache, record_stream_for_v2_verify
from sglang.srt.utils.async_probe import sanitize_nan_logits

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
    "compute_spec_logprobs",
    "get_parallel",
    "get_spec",
    "move_accept_tokens_to_target_kvcache",
    "record_stream_for_v2_verify",
    "relay",
    "sanitize_nan_logits",
    "step_result",
    "take_batch",
    "use_mla_backend",
    "verify_input",
]

# No launcher is known that builds its arguments before plugins are loaded.
TAKES_OVER_NGRAM = False
create_future_map = SpeculativeAlgorithm.create_future_map

# Schedulers are told of a new weight version.
TELLS_WEIGHT_VERSION = True


def resolved(server_args: Any) -> Any:
    """Server arguments with what other arguments imply."""
    return server_args


def speculation_reasons(server_args: Any) -> list[str]:
    """What this line cannot speculate with, besides what no line can."""
    return []


def allows_trees(server_args: Any) -> bool:
    """Whether KV of draft trees can be allocated."""
    return True


def overlap_disabled() -> bool:
    """Whether a batch is processed before the next one starts."""
    return bool(get_schedule().disable_overlap_schedule)


def weight_version() -> object:
    """The name of the weights that are loaded."""
    return get_serving().weight_version


def has_recurrent_state(model_runner: Any) -> bool:
    """Whether the model keeps more of its past than keys and values."""
    return mambaish_config(model_runner.model_config) is not None


def input_tokens(request: Any) -> int:
    """Tokens that a waiting request has so far, prompt and generated."""
    return len(request.full_untruncated_fill_ids)


def extend_tokens(request: Any) -> int:
    """Tokens that a request prefills in the batch it was taken into."""
    return int(request.extend_len)


def allocated_tokens(request: Any) -> int:
    """KV slots of a running request."""
    return int(request.kv.kv_allocated_len)


def finishing_in_flight(scheduler: Any, batch: Any) -> list[Any]:
    """Requests whose last token is on its way."""
    finishing: list[Any] = scheduler._reqs_finishing_inflight(batch)
    return finishing


def release_to_cache(request: Any, tree_cache: Any) -> None:
    """Give a running request's KV to the prefix cache."""
    release_kv_cache(request, tree_cache, checkpoint=True)


def returns_kept_tokens(_batch: Any) -> bool:
    """Only slime's build of another line does."""
    return False


def drop_grammar_mask(info: Any) -> None:
    """The mask of `SamplingBatchInfo` was applied."""
    info.grammar_mask = None
