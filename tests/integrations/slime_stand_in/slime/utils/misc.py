"""Stand-in: functions by dotted path, one instance of a class, arrays of an engine's answer."""

from __future__ import annotations

import base64
import importlib
from typing import Any

import torch


def load_function(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


class SingletonMeta(type):
    _instances: dict[type, Any] = {}  # noqa: RUF012

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls not in cls._instances:
            cls._instances[cls] = super().__call__(*args, **kwargs)
        return cls._instances[cls]

    def clear_instances(cls) -> None:
        cls._instances.clear()


def decode_int32_meta_array(meta_info: dict[str, Any], keys: str | tuple[str, ...]) -> torch.Tensor | None:
    for key in (keys,) if isinstance(keys, str) else keys:
        value = meta_info.get(key)
        if isinstance(value, str):
            return torch.frombuffer(bytearray(base64.b64decode(value)), dtype=torch.int32)
        if value is not None:
            return torch.as_tensor(value, dtype=torch.int32).reshape(-1)
    return None
