"""What SGLang before 0.5.23 asks an out-of-tree platform for, and has no default of."""

from typing import Any

from sglang_seer_cpu.platform import SeerCpuPlatform


class LegacySeerCpuPlatform(SeerCpuPlatform):
    """The platform for SGLang whose ``SRTPlatform`` has no ``get_kv_pool_cls``."""

    def get_mha_kv_pool_cls(self) -> type:
        from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

        return MHATokenToKVPool

    def get_paged_allocator_cls(self) -> Any:
        return make_allocator

    def support_cuda_graph(self) -> bool:
        return False

    def support_piecewise_cuda_graph(self) -> bool:
        return False


def make_allocator(size: int, *, page_size: int, **kwargs: Any) -> Any:
    """Build the allocator for slots of one token.

    These lines call what ``get_paged_allocator_cls`` returned for every page size,
    and allocate pages only with Triton kernels.

    Raises:
        ValueError: pages hold more than one token.
    """
    from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator

    if page_size != 1:
        raise ValueError(f"this SGLang allocates pages with Triton: on a CPU page_size must be 1, got {page_size}")
    return TokenToKVPoolAllocator(size, **kwargs)
