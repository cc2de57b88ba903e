"""Stand-in: the sample, and how a response is added to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch

from slime.utils.misc import decode_int32_meta_array


@dataclass
class Counts:
    """Sums over the calls of one sample; subclasses say of what."""

    def add(self, meta_info: dict[str, Any]) -> None:
        for name, key in self.keys().items():
            setattr(self, name, getattr(self, name) + meta_info.get(key, 0))

    def keys(self) -> dict[str, str]:
        raise NotImplementedError


@dataclass
class SpecInfo(Counts):
    spec_accept_token_num: int = 0
    spec_draft_token_num: int = 0
    spec_verify_ct: int = 0
    completion_token_num: int = 0

    def keys(self) -> dict[str, str]:
        same = ("spec_accept_token_num", "spec_draft_token_num", "spec_verify_ct")
        return {**dict(zip(same, same, strict=True)), "completion_token_num": "completion_tokens"}


@dataclass
class PrefixCacheInfo(Counts):
    cached_tokens: int = 0
    total_prompt_tokens: int = 0

    def keys(self) -> dict[str, str]:
        return {"cached_tokens": "cached_tokens", "total_prompt_tokens": "prompt_tokens"}


@dataclass
class Sample:
    group_index: int | None = None
    index: int | None = None
    prompt: Any = ""
    tokens: list[int] = field(default_factory=list)
    multimodal_inputs: dict[str, Any] | None = None
    response: str = ""
    response_length: int = 0
    label: str | None = None
    reward: Any = None
    loss_mask: list[int] | None = None
    weight_versions: list[str] = field(default_factory=list)
    rollout_log_probs: list[float] | None = None
    rollout_top_p_token_ids: Any = None
    rollout_top_p_token_offsets: Any = None
    rollout_routed_experts: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    generate_function_path: str | None = None
    session_id: str | None = None
    spec_info: SpecInfo = field(default_factory=SpecInfo)
    prefix_cache_info: PrefixCacheInfo = field(default_factory=PrefixCacheInfo)

    class Status(Enum):
        PENDING = "pending"
        COMPLETED = "completed"
        TRUNCATED = "truncated"
        ABORTED = "aborted"
        FAILED = "failed"

    status: Status = Status.PENDING

    def append_response_tokens(
        self,
        args: Any = None,
        *,
        tokens: Any = None,
        log_probs: Any = None,
        trainable: bool = True,
        meta_info: dict[str, Any] | None = None,
        text: str | None = None,
        update_terminal_info: bool = True,
    ) -> None:
        tokens, meta = list(tokens or ()), meta_info or {}
        if tokens and trainable == (log_probs is None):
            raise ValueError("log_probs: wanted for trainable tokens, and for no others")
        if not trainable and tokens:
            log_probs = [0.0] * len(tokens)
        if log_probs is not None and len(log_probs) != len(tokens):
            raise ValueError(f"{len(log_probs)} log_probs for {len(tokens)} tokens")
        before = self.response_length
        self.response += text or ""
        self.tokens += tokens
        self.response_length += len(tokens)
        if tokens:
            self.loss_mask = (self.loss_mask or [1] * before) + [int(trainable)] * len(tokens)
        if log_probs is not None:
            if self.rollout_log_probs is None and trainable and before:
                raise ValueError("earlier response tokens have no log-probabilities")
            self.rollout_log_probs = (self.rollout_log_probs or [0.0] * before) + list(log_probs)
        self._add_top_p(meta, len(tokens), pad=not trainable)
        self._add_experts(args, meta)
        if update_terminal_info and "finish_reason" in meta:
            self._end(args, meta)
        for name in ("loss_mask", "rollout_log_probs"):
            value = getattr(self, name)
            if value is not None and len(value) != self.response_length:
                raise ValueError(f"{name} has length {len(value)}, the response {self.response_length}")
        offsets = self.rollout_top_p_token_offsets
        if offsets is not None and len(offsets) != self.response_length + 1:
            raise ValueError(f"{len(offsets)} top-p offsets for {self.response_length} tokens")

    def _add_top_p(self, meta: dict[str, Any], count: int, *, pad: bool) -> None:
        ids = decode_int32_meta_array(meta, ("top_p_token_ids", "top_p_kept_token_ids"))
        offsets = decode_int32_meta_array(meta, ("top_p_token_offsets", "top_p_kept_token_offsets"))
        if not count:
            return
        if ids is None and pad and self.rollout_top_p_token_offsets is not None:
            ids, offsets = torch.zeros(0, dtype=torch.int32), torch.zeros(count + 1, dtype=torch.int32)
        if ids is None or offsets is None:
            return
        if len(offsets) != count + 1 or int(offsets[0]) != 0 or int(offsets[-1]) != len(ids):
            raise ValueError(f"top-p offsets {offsets.tolist()} do not fit {count} tokens and {len(ids)} ids")
        if self.rollout_top_p_token_ids is not None:
            known = self.rollout_top_p_token_offsets
            ids = torch.cat([self.rollout_top_p_token_ids, ids])
            offsets = torch.cat([known, offsets[1:] + int(known[-1])])
        self.rollout_top_p_token_ids, self.rollout_top_p_token_offsets = ids, offsets

    def _add_experts(self, args: Any, meta: dict[str, Any]) -> None:
        experts = decode_int32_meta_array(meta, "routed_experts")
        if experts is None:
            return
        start = meta.get("routed_experts_start_len") or 0
        rows = max(0, len(self.tokens) - 1 - start)
        if experts.numel() != rows * args.num_layers * args.moe_router_topk:
            raise ValueError(f"routed_experts: {experts.numel()} numbers for {rows} tokens")
        experts = experts.reshape(rows, args.num_layers, args.moe_router_topk)
        if start:
            known = self.rollout_routed_experts
            if known is None or len(known) < start:
                raise ValueError(f"routed_experts from {start} on, and not all before")
            experts = torch.cat([known[:start], experts])
        self.rollout_routed_experts = experts

    def _end(self, args: Any, meta: dict[str, Any]) -> None:
        if getattr(args, "sglang_speculative_algorithm", False):
            self.spec_info.add(meta)
        self.prefix_cache_info.add(meta)
        if "weight_version" in meta:
            self.weight_versions.append(meta["weight_version"])
        ends = {"length": "TRUNCATED", "abort": "ABORTED", "stop": "COMPLETED"}
        self.status = Sample.Status[ends[meta["finish_reason"]["type"]]]
