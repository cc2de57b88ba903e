"""What only SGLang 0.5.15 needs: its arguments refuse NGRAM anywhere but on CUDA."""

from types import ModuleType
from typing import Any

from sglang_seer_cpu.import_hooks import after_import, replace


def install() -> None:
    """Plant the hook; call before SGLang's modules are imported."""
    after_import("sglang.srt.arg_groups.speculative_hook", _accept_ngram)


def _accept_ngram(module: ModuleType) -> None:
    """Wrap ``sglang.srt.arg_groups.speculative_hook._handle_ngram``."""
    original = module._handle_ngram

    def handle_ngram(server_args: Any) -> None:
        device, server_args.device = server_args.device, "cuda"
        try:
            original(server_args)
        finally:
            server_args.device = device

    replace(module, "_handle_ngram", handle_ngram)
