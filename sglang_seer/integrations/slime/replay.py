"""Replay data of a chunk, cut to the tokens that were kept: arrays of int32, in base64 or as they are."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOP_P_KEYS = ("top_p_token_ids", "top_p_kept_token_ids")
TOP_P_OFFSET_KEYS = ("top_p_token_offsets", "top_p_kept_token_offsets")


def int32_array(value: Any) -> NDArray[np.int32]:
    """Raises ValueError for what is no array of int32."""
    if isinstance(value, str):
        value = base64.b64decode(value, validate=True)
    if isinstance(value, bytes):
        return np.frombuffer(value, dtype=np.int32)
    return np.asarray(value, dtype=np.int32).reshape(-1)


def cut_routed_experts(value: Any, numbers: int) -> NDArray[np.int32]:
    """The first `numbers` of them: tokens x layers x experts. Raises ValueError where there are fewer."""
    experts = int32_array(value)
    if experts.size < numbers:
        raise ValueError(f"routed_experts: got {experts.size} numbers, wanted at least {numbers}")
    return experts[:numbers].copy()


def cut_top_p(meta: Mapping[str, Any], tokens: int) -> dict[str, NDArray[np.int32]]:
    """Ids and offsets of the first `tokens` tokens. Raises ValueError where there are fewer or one of both is missing.

    offsets: one more than tokens; ids of token i are ids[offsets[i]:offsets[i + 1]].
    """
    found = {}
    for name, keys in (("ids", TOP_P_KEYS), ("offsets", TOP_P_OFFSET_KEYS)):
        values = [meta[key] for key in keys if meta.get(key) is not None]
        if not values:
            raise ValueError(f"top-p replay: got no {keys[0]}, wanted token ids and offsets")
        found[name] = int32_array(values[0])
    offsets = found["offsets"]
    if offsets.size < tokens + 1:
        raise ValueError(f"top-p replay: got {offsets.size} offsets, wanted at least {tokens + 1}")
    last = int(offsets[tokens])
    if last > found["ids"].size:
        raise ValueError(f"top-p replay: got {found['ids'].size} token ids, wanted at least {last}")
    return {TOP_P_KEYS[0]: found["ids"][:last].copy(), TOP_P_OFFSET_KEYS[0]: offsets[: tokens + 1].copy()}
