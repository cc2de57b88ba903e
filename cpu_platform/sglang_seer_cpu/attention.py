"""Attention that gives a token the same bits however it is computed.

A token's output must not depend on its batch mates, on padding, on the chunk of
prefill it came in, or on whether it was decoded or verified inside a tree, where
its ancestors sit between siblings that it does not see. Sums in another order
differ in the last bit, so everything is summed in float64 and rounded once to
float32: the order then shows up in about one value of 10^8.

It is also the only attention here that honours tree masks: SGLang's torch_native
backend ignores them.
"""

from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache import memory_pool

from sglang_seer_cpu.attention_plan import AttentionBlock, plan_attention

if TYPE_CHECKING:
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.model_executor.model_runner import ModelRunner


class ExactAttnBackend(TorchNativeAttnBackend):
    """Registered as ``torch_native``, so SGLang's special cases still apply.

    Replaces ``sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend``
    for causal layers; the others keep SGLang's own code.
    """

    accumulate_dtype = torch.float64

    def __init__(self, model_runner: "ModelRunner") -> None:
        super().__init__(model_runner)
        # 0.5.12 reads them off each batch instead of keeping them.
        self.req_to_token_pool = model_runner.req_to_token_pool
        self.token_to_kv_pool = model_runner.token_to_kv_pool

    def init_forward_metadata(self, forward_batch: "ForwardBatch") -> None:
        super().init_forward_metadata(forward_batch)
        self.forward_metadata = plan_attention(forward_batch, self.req_to_token_pool.req_to_token)

    def forward_decode(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layer: "RadixAttention",
        forward_batch: "ForwardBatch",
        save_kv_cache: bool = True,
        **kwargs: Any,
    ) -> torch.Tensor:
        if _is_unusual(layer):
            return super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache)
        return self._attend(q, k, v, layer, forward_batch, save_kv_cache)

    def forward_extend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layer: "RadixAttention",
        forward_batch: "ForwardBatch",
        save_kv_cache: bool = True,
        **kwargs: Any,
    ) -> torch.Tensor:
        if not _is_unusual(layer):
            return self._attend(q, k, v, layer, forward_batch, save_kv_cache)
        if forward_batch.forward_mode.is_target_verify():
            raise NotImplementedError(
                "tree verification on a CPU wants plain causal attention, got layer "
                f"{layer.layer_id} with sliding window {layer.sliding_window_size}, "
                f"type {layer.attn_type}, cross attention {layer.is_cross_attention}"
            )
        return super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache)

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        layer: "RadixAttention",
        forward_batch: "ForwardBatch",
        save_kv_cache: bool,
    ) -> torch.Tensor:
        pool = self.token_to_kv_pool
        if save_kv_cache and k is not None:
            pool.set_kv_buffer(layer, _write_loc(forward_batch), k, v)
        query = q.view(-1, layer.tp_q_head_num, layer.qk_head_dim)
        output = q.new_zeros(query.shape[0], layer.tp_q_head_num, layer.v_head_dim)
        keys = pool.get_key_buffer(layer.layer_id)
        values = pool.get_value_buffer(layer.layer_id)
        for block in self.forward_metadata:
            block.unpad(self._attend_block(block, query, keys, values, layer.scaling), output)
        return output.view(-1, layer.tp_q_head_num * layer.v_head_dim)

    def _attend_block(
        self, block: AttentionBlock, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """[reqs, max_q, heads, dim]. The heads that share keys are handled as more rows of one product."""
        kv_heads, dtype = keys.shape[1], self.accumulate_dtype
        padded = block.pad(query)
        reqs, rows, heads, dim = padded.shape
        shared = heads // kv_heads
        by_kv_head = padded.view(reqs, rows, kv_heads, shared, dim).permute(0, 2, 1, 3, 4)
        q = by_kv_head.to(dtype, memory_format=torch.contiguous_format).mul_(scaling)
        k, v = (
            block.gather(buffer).transpose(1, 2).to(dtype, memory_format=torch.contiguous_format).flatten(0, 1)
            for buffer in (keys, values)
        )
        scores = torch.bmm(q.view(reqs * kv_heads, rows * shared, dim), k.transpose(1, 2))
        # Broadcast over key heads and over the query heads that share them.
        scores.view(reqs, kv_heads, rows, shared, -1).masked_fill_(block.unseen[:, None, :, None, :], float("-inf"))
        attended = torch.bmm(torch.softmax(scores, dim=-1), v)
        return attended.view(reqs, kv_heads, rows, shared, -1).transpose(1, 2).flatten(2, 3)


def _is_unusual(layer: "RadixAttention") -> bool:
    window = layer.sliding_window_size
    return layer.is_cross_attention or layer.attn_type != AttentionType.DECODER or (window is not None and window > -1)


def _write_loc(forward_batch: "ForwardBatch") -> Any:
    """Where this pass writes its keys, as the pool of this SGLang wants it."""
    write_loc = getattr(memory_pool, "KVWriteLoc", None)
    if write_loc is None:
        return forward_batch.out_cache_loc
    return write_loc(forward_batch.out_cache_loc)
