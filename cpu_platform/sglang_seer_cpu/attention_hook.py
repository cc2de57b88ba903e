"""Put our attention in SGLang's registry, under the name of the one it replaces."""

from types import ModuleType
from typing import Any

from sglang_seer_cpu.import_hooks import PatchTargetError, after_import

BACKEND_NAME = "torch_native"


def install() -> None:
    """Plant the hook; call before SGLang's modules are imported."""
    after_import("sglang.srt.layers.attention.attention_registry", _register)


def _register(module: ModuleType) -> None:
    if BACKEND_NAME not in module.ATTENTION_BACKENDS:
        raise PatchTargetError(
            f"SGLang has no attention backend {BACKEND_NAME!r}, only {sorted(module.ATTENTION_BACKENDS)}"
        )
    module.register_attention_backend(BACKEND_NAME)(_create)


def _create(runner: Any) -> Any:
    # Imported late: SGLang's modules are still loading when the hook runs.
    from sglang_seer_cpu.attention import ExactAttnBackend

    return ExactAttnBackend(runner)
