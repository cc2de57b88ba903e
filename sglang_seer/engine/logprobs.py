"""Log-probabilities of accepted tokens, in the form in which SGLang's result processing reads them."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.environ import envs

from sglang_seer.patches.adapter import line
from sglang_seer.verify import Accepted, Logprobs


def wanted_logprobs(batch: Any) -> Logprobs:
    """What the verifier is to compute for a batch."""
    if not batch.return_logprob:
        return Logprobs()
    original = bool(envs.SGLANG_RETURN_ORIGINAL_LOGPROB.get())
    return Logprobs(tempered=not original, original=original, top=max(batch.top_logprobs_nums or [0]))


def set_logprobs(batch: Any, logits_output: Any, accepted: Accepted) -> None:
    """Put the log-probabilities of a step where SGLang looks for them.

    accepted: of a verification that was asked for `wanted_logprobs(batch)`.
    """
    kept = line.returns_kept_tokens(batch)
    if kept or any(ids is not None for ids in batch.token_ids_logprobs or ()):
        # Log-probabilities of tokens that the request names, or among those that its filters kept: rarely asked for.
        line.compute_spec_logprobs(batch, logits_output, _tokens_by_row(accepted), accept_index=accepted.nodes)
    if not kept:
        logprobs = accepted.logprobs if accepted.logprobs is not None else accepted.original_logprobs
        logits_output.next_token_logprobs = logprobs
    if accepted.top_logprobs is not None and accepted.top_tokens is not None:
        width = accepted.tokens.shape[1]
        slots = [(i, j, num) for i, num in enumerate(batch.top_logprobs_nums) for j in range(width)]
        logits_output.next_token_top_logprobs_val = [accepted.top_logprobs[i, j, :num] for i, j, num in slots]
        logits_output.next_token_top_logprobs_idx = [accepted.top_tokens[i, j, :num] for i, j, num in slots]


def _tokens_by_row(accepted: Accepted) -> torch.Tensor:
    """[bs * width] token emitted at each row of the logits, 0 where none was."""
    rows = torch.zeros(accepted.nodes.numel() + 1, dtype=torch.int32, device=accepted.nodes.device)
    # Slots behind a request's length point at row -1: the extra last element takes them.
    rows[accepted.nodes.long().flatten()] = accepted.tokens.flatten()
    return rows[:-1]
