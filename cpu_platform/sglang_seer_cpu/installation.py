"""Everything that is planted when the platform is activated, in its order."""

from sglang.srt.platforms.interface import SRTPlatform

from sglang_seer_cpu import (
    attention_hook,
    determinism,
    fast_start,
    hicache,
    kernels,
    line_0_5_12,
    line_0_5_15,
    overlap,
    weight_sync,
)
from sglang_seer_cpu.environment import set_environment_defaults
from sglang_seer_cpu.lines import sglang_line


def install_everything() -> str:
    """Plant all hooks and return the dotted name of the platform class."""
    set_environment_defaults()
    if sglang_line() == "0.5.12":
        line_0_5_12.install()
    if sglang_line() == "0.5.15":
        line_0_5_15.install()
    fast_start.install()
    kernels.install()
    determinism.install()
    attention_hook.install()
    overlap.install()
    hicache.install()
    weight_sync.install()
    if hasattr(SRTPlatform, "get_kv_pool_cls"):
        return "sglang_seer_cpu.platform:SeerCpuPlatform"
    return "sglang_seer_cpu.legacy:LegacySeerCpuPlatform"
