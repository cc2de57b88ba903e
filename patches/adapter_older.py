"""What 0.5.12 and 0.5.15 have in common: configuration is that of the server arguments, KV is on the request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from sglang.srt.layers.utils.logprob import compute_spec_v2_logprobs
from sglang.srt.mem_cache.common import release_kv_cache
from sglang.srt.server_args import get_global_server_args

# In slime's build this function has one argument more.
_COUNTS_ACCEPTED = "accept_lens" in signature(compute_spec_v2_logprobs).parameters
# Only the tokenizer's process learns a new weight version.
TELLS_WEIGHT_VERSION = False


class Speculation:
    """The speculative part of the server arguments, as newer lines give it."""

    @property
    def speculative_num_draft_tokens(self) -> int | None:
        return _number(get_global_server_args().speculative_num_draft_tokens)

    @property
    def speculative_eagle_topk(self) -> int | None:
        return _number(get_global_server_args().speculative_eagle_topk)

    @contextmanager
    def override(self, **values: Any) -> Iterator[None]:
        """Other values inside."""
        record = vars(get_global_server_args())
        before = {name: record[name] for name in values}
        record.update(values)
        try:
            yield
        finally:
            record.update(before)


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def get_spec() -> Speculation:
    """Options of speculation."""
    return Speculation()


def use_mla_backend(server_args: Any) -> bool:
    """Whether the model has multi-head latent attention."""
    return bool(server_args.use_mla_backend())


def overlap_disabled() -> bool:
    """Whether a batch is processed before the next one starts."""
    return bool(get_global_server_args().disable_overlap_schedule)


def weight_version() -> object:
    """The name of the weights that the server started with."""
    return get_global_server_args().weight_version


def has_recurrent_state(model_runner: Any) -> bool:
    """Whether the model keeps more of its past than keys and values."""
    return model_runner.mambaish_config is not None


def compute_spec_logprobs(batch: Any, logits_output: Any, tokens: Any, *, accept_index: Any) -> None:
    """Log-probabilities of accepted tokens; `tokens` is by row of the logits."""
    arguments = {"speculative_num_steps": accept_index.shape[1] - 1}
    if _COUNTS_ACCEPTED:
        arguments["accept_lens"] = (accept_index >= 0).sum(1)
    compute_spec_v2_logprobs(
        batch=batch, logits_output=logits_output, predict=tokens, accept_index=accept_index, **arguments
    )


def returns_kept_tokens(batch: Any) -> bool:
    """Whether a request wants the token ids that its filters kept, and log-probabilities among them (slime's build)."""
    return bool(getattr(batch.sampling_info, "need_return_top_p_token_ids", False))


def allocated_tokens(request: Any) -> int:
    """KV slots of a running request."""
    return int(request.kv_allocated_len)


def finishing_in_flight(scheduler: Any, batch: Any) -> list[Any]:
    """These lines decode on until a result is known."""
    return []


def release_to_cache(request: Any, tree_cache: Any) -> None:
    """Give a running request's KV to the prefix cache."""
    release_kv_cache(request, tree_cache, is_insert=True)


def drop_grammar_mask(info: Any) -> None:
    """The mask of `SamplingBatchInfo` was applied."""
    info.vocab_mask = None
