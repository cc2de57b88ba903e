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

from sglang_seer_cpu.attention_plan import plan_attention

if TYPE_CHECKING:
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch


class ExactAttnBackend(TorchNativeAttnBackend):
    """Registered as ``torch_native``, so SGLang's special cases still apply.

    Replaces ``sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend``
    for causal layers; the others keep SGLang's own code.
    """

    accumulate_dtype = torch.float64

    def init_forward_metadata(self, forward_batch: "ForwardBatch") -> None:
        super().init_forward_metadata(forward_batch)
        self.forward_metadata = plan_attention(
            forward_batch, self.req_to_token_pool.req_to_token, self.accumulate_dtype
        )

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
        heads, kv_heads = layer.tp_q_head_num, layer.tp_k_head_num
        query = q.view(-1, heads, layer.qk_head_dim)
        output = q.new_zeros(query.shape[0], heads, layer.v_head_dim)
        keys = pool.get_key_buffer(layer.layer_id)
        values = pool.get_value_buffer(layer.layer_id)
        dtype = self.accumulate_dtype
        for block in self.forward_metadata:
            attended = torch.nn.functional.scaled_dot_product_attention(
                block.pad(query).to(dtype).transpose(1, 2),
                block.gather(keys).to(dtype).transpose(1, 2),
                block.gather(values).to(dtype).transpose(1, 2),
                attn_mask=block.bias,
                scale=layer.scaling,
                enable_gqa=heads != kv_heads,
            )
            block.unpad(attended.transpose(1, 2), output)
        return output.view(-1, heads * layer.v_head_dim)


def _is_unusual(layer: "RadixAttention") -> bool:
    window = layer.sliding_window_size
    return (
        layer.is_cross_attention
        or layer.attn_type != AttentionType.DECODER
        or (window is not None and window > -1)
    )


def _write_loc(forward_batch: "ForwardBatch") -> Any:
    """Where this pass writes its keys, as the pool of this SGLang wants it."""
    write_loc = getattr(memory_pool, "KVWriteLoc", None)
    if write_loc is None:
        return forward_batch.out_cache_loc
    return write_loc(forward_batch.out_cache_loc)
