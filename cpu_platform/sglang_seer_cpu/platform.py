"""The platform object SGLang asks for its device, its defaults and its seams."""

from collections.abc import Callable
from typing import Any

import psutil
import torch
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform

from sglang_seer_cpu import allocator, determinism, hicache, kv_ops
from sglang_seer_cpu.attention_hook import BACKEND_NAME
from sglang_seer_cpu.environment import num_threads
from sglang_seer_cpu.import_hooks import run_pending_hooks

DEFAULT_MAX_TOTAL_TOKENS = 1 << 16


class SeerCpuPlatform(SRTPlatform):
    """A CPU that serves models with plain torch operators.

    SGLang's own CPU platform (``SGLANG_USE_CPU_ENGINE=1``) needs the AMX build of
    ``sgl_kernel``; this one needs nothing but the wheel from PyPI.
    """

    _enum = PlatformEnum.OOT
    device_name = "seer_cpu"
    device_type = "cpu"

    def apply_server_args_defaults(self, server_args: Any) -> None:
        """Fill what a CPU needs, so that a command line stays short."""
        run_pending_hooks()
        if server_args.attention_backend in (None, "intel_amx"):
            server_args.attention_backend = BACKEND_NAME
        if server_args.grammar_backend is None:
            server_args.grammar_backend = "none"
        server_args.sampling_backend = "pytorch"
        if server_args.dtype == "auto":
            # SGLang turns a float32 checkpoint into float16, slow and coarse on a CPU.
            server_args.dtype = "float32"
        if server_args.max_total_tokens is None:
            # Else SGLang takes the share of the memory that it would take of a GPU's.
            server_args.max_total_tokens = DEFAULT_MAX_TOTAL_TOKENS
        hicache.use_direct_copies(server_args)
        server_args.skip_server_warmup = True
        # 0.5.12 tries to record a graph of the prefill even on a device without any.
        if hasattr(server_args, "disable_piecewise_cuda_graph"):
            server_args.disable_piecewise_cuda_graph = True

    def get_default_attention_backend(self) -> str:
        return BACKEND_NAME

    def get_device(self, device_id: int = 0) -> str:
        # SGLang concatenates and compares the answer as text.
        return "cpu"

    def get_device_total_memory(self, device_id: int = 0) -> int:
        return psutil.virtual_memory().total

    def get_current_memory_usage(self, device: torch.device | None = None) -> float:
        memory = psutil.virtual_memory()
        return float(memory.total - memory.available)

    def get_torch_distributed_backend_str(self) -> str:
        return "gloo"

    def get_compile_backend(self, mode: str | None = None) -> str:
        return "eager"

    def get_dispatch_key_name(self) -> str:
        return "native"

    def supports_speculative_algorithm(self, algorithm: str) -> bool:
        return True

    def get_speculative_cache_locs_fn(self) -> Callable[..., torch.Tensor]:
        return kv_ops.speculative_cache_locs

    def init_backend(self) -> None:
        run_pending_hooks()
        torch.set_num_threads(num_threads())
        allocator.keep_freed_memory()
        determinism.make_products_exact()
