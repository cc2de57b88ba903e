"""What only SGLang 0.5.12 needs: it was not written for platforms from outside."""

import sys
from types import ModuleType
from typing import Any

import torch

from sglang_seer_cpu import cuda_stub
from sglang_seer_cpu.import_hooks import PatchTargetError, after_import, replace


def install() -> None:
    """Plant the hooks; call before SGLang's modules are imported."""
    cuda_stub.load()
    after_import("sglang.srt.utils.common", _answer_cpu)
    after_import("sglang.srt.layers.logits_processor", _build_indices_unpinned)
    after_import("sglang.srt.managers.overlap_utils", _resolve_futures_without_streams)
    _provide_vllm_rotary_embedding()


def _answer_cpu(module: ModuleType) -> None:
    """Replace ``sglang.srt.utils.common.get_device``, which knows accelerators only."""
    replace(module, "get_device", _cpu)


def _cpu(device_id: int | None = None) -> str:
    return "cpu"


class _UnpinnedTorch(ModuleType):
    """torch, except that ``tensor`` ignores ``pin_memory``, which needs a driver."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def tensor(self, data: Any, *, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        return torch.tensor(data, **kwargs)


def _build_indices_unpinned(module: ModuleType) -> None:
    """Change ``sglang.srt.layers.logits_processor``, which pins the indices of every
    prefill that returns log-probabilities."""
    if getattr(module, "torch", None) is not torch:
        raise PatchTargetError(f"{module.__name__} was expected to import torch by name")
    module.torch = _UnpinnedTorch("torch")  # type: ignore[attr-defined]


def _resolve_futures_without_streams(module: ModuleType) -> None:
    """Wrap ``sglang.srt.managers.overlap_utils.FutureMap.resolve_future``.

    With speculation it tells the indices of a stream, which only tensors of an
    accelerator can be told.
    """
    original = module.FutureMap.resolve_future

    def resolve_future(futures: Any, batch: Any) -> None:
        draft = batch.spec_info
        if futures.spec_algo.is_none() or draft is None:
            original(futures, batch)
            return
        indices = draft.future_indices.indices
        for name in ("topk_p", "topk_index", "bonus_tokens", "new_seq_lens", "hidden_states"):
            relayed = getattr(futures, f"{name}_buf", None)
            if relayed is not None:
                setattr(draft, name, relayed[indices])

    replace(module.FutureMap, "resolve_future", resolve_future)


def _provide_vllm_rotary_embedding() -> None:
    """Stand in for ``vllm._custom_ops``.

    ``sglang.srt.layers.rotary_embedding.base`` imports one name from it while it
    builds a layer, and then calls ``forward_native``, as the platform asked.
    """
    stand_in = ModuleType("vllm._custom_ops")
    stand_in.rotary_embedding = _never_called  # type: ignore[attr-defined]
    sys.modules.setdefault("vllm._custom_ops", stand_in)


def _never_called(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("vllm's rotary_embedding was called; on a CPU wanted RotaryEmbedding.forward_native")
