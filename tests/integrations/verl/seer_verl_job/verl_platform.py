"""A platform of veRL for machines without an accelerator: `VERL_USE_EXTERNAL_MODULES` names this, `VERL_PLATFORM=cpu`.

veRL's own servers also start without it, on the platform for CUDA; but that moves new weights to a device.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform.platform_cuda import PlatformCUDA
from verl.plugin.platform.platform_manager import PlatformRegistry


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformCUDA):  # type: ignore[misc]
    """veRL asks Ray for GPUs wherever servers run; here those are only a number given to `ray.init`."""

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return torch.cpu

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return "cpu"
