"""Requests that cannot be verified in a tree exactly, and the transforms of their one plain row."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.sampler import apply_custom_logit_processor

from sglang_seer.patches.adapter import line


def takes_plain_path(request: Any) -> bool:
    """Whether a request's law at a node depends on more than the node's logits, or changes them.

    Such a request verifies its root alone: one token a step, exactly SGLang's plain decoding.
    """
    return plain_path_reason(request) is not None


def plain_path_reason(request: Any) -> str | None:
    """Why a request takes the plain path; None if it does not."""
    parameters = request.sampling_params
    if request.grammar is not None:
        return "grammar"
    if parameters.frequency_penalty or parameters.presence_penalty or parameters.repetition_penalty != 1.0:
        return "penalty"
    if parameters.min_new_tokens:
        return "min_new_tokens"
    if parameters.logit_bias:
        return "logit_bias"
    if request.custom_logit_processor:
        return "logit_processor"
    return None


def apply_root_transforms(logits: torch.Tensor, batch: Any, width: int) -> None:
    """Apply penalties, grammar masks, biases and custom processors to the root rows, in place.

    logits: [bs * width, vocab]. Rows of requests that use none of these are not changed by them.
    """
    info = batch.sampling_info
    roots = logits[::width].contiguous()
    info.update_regex_vocab_mask()
    info.apply_logits_bias(roots)
    line.drop_grammar_mask(info)
    if info.has_custom_logit_processor:
        apply_custom_logit_processor(roots, info)
    logits[::width] = roots
