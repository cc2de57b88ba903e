"""Which SGLang kernels are replaced on a CPU, all in one place.

``SGLANG_SEER_CPU_KERNELS=torch`` (default) installs plain torch and numpy.
``interpret`` leaves SGLang's Triton kernels where they exist and runs them in
Triton's interpreter: a hundred times slower, a second opinion for tests. It needs
``TRITON_INTERPRET=1`` in the environment too.
"""

import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from sglang_seer_cpu import hashing, kv_ops, tree_ops
from sglang_seer_cpu.import_hooks import after_import, replace
from sglang_seer_cpu.lines import sglang_line

KERNELS_ENV = "SGLANG_SEER_CPU_KERNELS"

_ASSIGN = {"assign_req_to_token_pool": kv_ops.TorchKernel(kv_ops.assign_req_to_token_pool)}
_EXTEND = {"assign_extend_cache_locs": kv_ops.TorchKernel(kv_ops.assign_extend_cache_locs)}
_ACCEPT = {"fill_accept_out_cache_loc": kv_ops.TorchKernel(kv_ops.fill_accept_out_cache_loc)}
_BONUS = {"fill_bonus_tokens": kv_ops.TorchKernel(kv_ops.fill_bonus_tokens)}
_EXTEND_FUNC = {"assign_extend_cache_locs_func": kv_ops.speculative_cache_locs}
_VERIFY = {"verify_tree_greedy_func": tree_ops.verify_tree_greedy}
_MURMUR = {"murmur_hash32": hashing.murmur_hash32}

Table = Mapping[str, Mapping[str, Any]]

# SGLang line -> module -> name in it -> replacement. Triton kernels:
_TRITON: dict[str, Table] = {
    "0.5.23": {
        "sglang.srt.mem_cache.allocation": _ASSIGN,
        "sglang.kernels.ops.speculative.cache_locs": _EXTEND,
        "sglang.kernels.ops.speculative.eagle": _ACCEPT | _BONUS,
    },
    "0.5.15": {
        "sglang.srt.speculative.triton_ops.cache_locs": _ASSIGN | _EXTEND,
        "sglang.srt.speculative.triton_ops.eagle": _ACCEPT | _BONUS,
        "sglang.srt.layers.utils.hash": _MURMUR,
    },
    "0.5.12": {
        "sglang.srt.speculative.spec_utils": _ASSIGN,
        "sglang.srt.speculative.eagle_info_v2": _EXTEND | _BONUS,
        "sglang.srt.layers.utils.hash": _MURMUR,
    },
}

# And functions that no CPU tensor gets through:
_CUDA_ONLY: dict[str, Table] = {
    "0.5.23": {
        "sglang.kernels.ops.speculative.spec_tree": _VERIFY,
        "sglang.kernels.ops.sampling.murmur_hash": _MURMUR,
        "sglang.kernels.ops.sampling.renorm": {
            "top_k_renorm_prob": tree_ops.top_k_renorm_prob,
            "top_p_renorm_prob": tree_ops.top_p_renorm_prob,
        },
        "sglang.kernels.ops.speculative.verify_sampling": {
            "tree_speculative_sampling_target_only": (tree_ops.tree_speculative_sampling_target_only),
        },
    },
    "0.5.15": {
        "sglang.srt.speculative.triton_ops.cache_locs": _EXTEND_FUNC,
        "sglang.srt.speculative.eagle_utils": _VERIFY,
    },
    "0.5.12": {
        "sglang.srt.speculative.eagle_info_v2": _EXTEND_FUNC,
        "sglang.srt.speculative.eagle_utils": _VERIFY,
    },
}


def kernel_choice() -> str:
    """``torch`` or ``interpret``, from ``SGLANG_SEER_CPU_KERNELS``.

    Raises:
        ValueError: the variable is something else, or Triton's interpreter is off.
    """
    choice = os.environ.get(KERNELS_ENV, "torch")
    if choice not in ("torch", "interpret"):
        raise ValueError(f"{KERNELS_ENV} must be 'torch' or 'interpret', got {choice!r}")
    # torch imports Triton, which reads its variable then, before a platform is asked.
    if choice == "interpret" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"{KERNELS_ENV}=interpret needs TRITON_INTERPRET=1 exported as well")
    return choice


def install() -> None:
    """Plant the hooks; call before SGLang's kernels are imported."""
    tables = [_CUDA_ONLY[sglang_line()]]
    if kernel_choice() == "torch":
        tables.append(_TRITON[sglang_line()])
    for table in tables:
        for module_name, names in table.items():
            after_import(module_name, _replacing(names))
    after_import("sglang.srt.mem_cache.memory_pool", _use_native_kv_move)
    _provide_sgl_kernel_speculative()


def _replacing(names: Mapping[str, Any]) -> Callable[[ModuleType], None]:
    def hook(module: ModuleType) -> None:
        for name, new in names.items():
            replace(module, name, new)

    return hook


def _use_native_kv_move(module: ModuleType) -> None:
    replace(module.MHATokenToKVPool, "_init_kv_copy_and_warmup", kv_ops.skip_kv_copy_warmup)


def _provide_sgl_kernel_speculative() -> None:
    """Stand in for ``sgl_kernel.speculative``, whose parent needs a CUDA driver.

    The NGRAM worker, or a module that it imports, takes one name from it.
    """
    stand_in = ModuleType("sgl_kernel.speculative")
    stand_in.reconstruct_indices_from_tree_mask = (  # type: ignore[attr-defined]
        tree_ops.reconstruct_indices_from_tree_mask
    )
    sys.modules.setdefault("sgl_kernel.speculative", stand_in)
