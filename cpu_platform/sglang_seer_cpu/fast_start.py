"""Start an engine in a third of the time.

Importing SGLang costs half a minute of one core. Stock, the engine's process, the
scheduler and the detokenizer each pay it. Nothing here initialises an accelerator,
so the children may fork and inherit what is already imported.
"""

import multiprocessing
from types import ModuleType
from typing import Any

from sglang_seer_cpu.environment import start_method
from sglang_seer_cpu.import_hooks import after_import, hide, replace


def install() -> None:
    """Plant the hooks; call before SGLang's modules are imported."""
    # 8 s of imports for kernels that cannot run here; SGLang treats it as optional.
    hide("flashinfer")
    after_import("sglang.srt.entrypoints.engine", _choose_start_method)


def _choose_start_method(module: ModuleType) -> None:
    """Wrap ``sglang.srt.entrypoints.engine._set_envs_and_config``.

    It forces ``spawn`` for CUDA's sake just before the children are launched.
    """
    original = module._set_envs_and_config

    def set_envs_and_config(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        multiprocessing.set_start_method(start_method(), force=True)
        return result

    replace(module, "_set_envs_and_config", set_envs_and_config)
