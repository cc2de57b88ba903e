"""SGLang's hierarchical KV cache on a CPU.

The "device" is host memory as well, so copies between the tiers are plain indexing, nothing is pinned, and much less
memory than beside a GPU has to stay free.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch

from sglang_seer_cpu.import_hooks import after_import, replace
from sglang_seer_cpu.lines import sglang_line

# Memory that host pools leave free; SGLang keeps 10 GiB.
RESERVED_BYTES = 1 << 30


def install() -> None:
    """Plant the hooks; older lines have other host pools."""
    if sglang_line() == "0.5.23":
        after_import("sglang.srt.mem_cache.pool_host.base", _fit_host_pools)
        after_import("sglang.srt.mem_cache.pool_host.mha", _provide_transfers)


def use_direct_copies(server_args: Any) -> None:
    """Choose the copies that exist here; the other choices are kernels."""
    if getattr(server_args, "hicache_io_backend", None) == "kernel":
        server_args.hicache_io_backend = "direct"


def _fit_host_pools(module: ModuleType) -> None:
    replace(module, "HICACHE_HOST_MEMORY_RESERVE_BYTES", RESERVED_BYTES)
    replace(module.HostKVCache, "__init__", _without_pinning(module.HostKVCache.__init__))


def _without_pinning(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``HostKVCache.__init__``: pages are pinned for a device's sake, and torch refuses where there is none."""

    def __init__(self: Any, **options: Any) -> None:
        init(self, **{**options, "pin_memory": False})

    return __init__


def _provide_transfers(module: ModuleType) -> None:
    """Operators of ``sgl_kernel.kvcacheio`` that the module imports only beside a GPU."""
    for transfer in (transfer_kv_direct, transfer_kv_per_layer_direct_pf_lf, transfer_kv_all_layer_direct_lf_pf):
        setattr(module, transfer.__name__, transfer)


def transfer_kv_direct(
    src_layers: Sequence[torch.Tensor],  # each [src_slots, heads, dim]
    dst_layers: Sequence[torch.Tensor],  # each [dst_slots, heads, dim], written
    src_indices: torch.Tensor,  # [tokens] int64
    dst_indices: torch.Tensor,  # [tokens] int64
    page_size: int,
) -> None:
    """Copy tokens between pools whose layers lie one after the other."""
    for src, dst in zip(src_layers, dst_layers, strict=True):
        dst[dst_indices] = src[src_indices]


def transfer_kv_per_layer_direct_pf_lf(
    src_ptrs: Sequence[torch.Tensor],  # keys, values: each [pages, layers, page_size, heads, dim]
    dst_ptrs: Sequence[torch.Tensor],  # keys, values of the layer: each [slots, heads, dim], written
    src_indices: torch.Tensor,  # [tokens] int64
    dst_indices: torch.Tensor,  # [tokens] int64
    layer_id: int,
    page_size: int,
) -> None:
    """Copy one layer of tokens out of a pool whose pages hold all layers."""
    for src, dst in zip(src_ptrs, dst_ptrs, strict=True):
        dst[dst_indices] = src[src_indices // page_size, layer_id, src_indices % page_size]


def transfer_kv_all_layer_direct_lf_pf(
    src_ptrs: Sequence[torch.Tensor],  # keys of each layer, then values: each [slots, heads, dim]
    dst_ptrs: Sequence[torch.Tensor],  # keys, values: each [pages, layers, page_size, heads, dim], written
    src_indices: torch.Tensor,  # [tokens] int64
    dst_indices: torch.Tensor,  # [tokens] int64
    page_size: int,
) -> None:
    """Copy all layers of tokens into a pool whose pages hold all layers."""
    layers = len(src_ptrs) // len(dst_ptrs)
    pages, offsets = dst_indices // page_size, dst_indices % page_size
    for part, dst in enumerate(dst_ptrs):
        for layer in range(layers):
            dst[pages, layer, offsets] = src_ptrs[part * layers + layer][src_indices]
