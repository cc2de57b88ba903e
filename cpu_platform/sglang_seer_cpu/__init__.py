"""SGLang on a plain CPU, chosen with ``SGLANG_PLATFORM=seer_cpu``.

``activate`` is the entry point of group ``sglang.srt.platforms``. SGLang calls
it while ``sglang.srt.utils`` is being imported, so before the modules with the
kernels: it only sets environment defaults and plants import hooks.
"""

from sglang.srt.platforms.interface import SRTPlatform

from sglang_seer_cpu import attention_hook, determinism, fast_start, kernels, overlap
from sglang_seer_cpu.environment import set_environment_defaults


def activate() -> str:
    """Prepare this process and name the platform class for SGLang."""
    set_environment_defaults()
    fast_start.install()
    kernels.install()
    determinism.install()
    attention_hook.install()
    overlap.install()
    # SGLang's platform package imports its base class before it activates a platform.
    if hasattr(SRTPlatform, "get_kv_pool_cls"):
        return "sglang_seer_cpu.platform:SeerCpuPlatform"
    return "sglang_seer_cpu.legacy:LegacySeerCpuPlatform"
