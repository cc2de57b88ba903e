"""Which requests are siblings.

A request says its group in `sampling_params.custom_params["seer"]`; without that, requests with the same prompt
tokens are one group. Both sides of a tensor-parallel engine derive the same identity from the same request.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_HINT_TYPES: dict[str, type | tuple[type, ...]] = {
    "group": (str, int),
    "sample": int,
    "prompt_len": int,
    "limit": int,
    "step": int,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Group of a request, and the generation limit of the whole response (all chunks together)."""

    group: str
    prompt_tokens: int
    limit_tokens: int


def request_key(text: str) -> int:
    """Stable signed 64-bit number for a name: the same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _checked_hint(hint: Any) -> Mapping[str, Any]:
    if not isinstance(hint, Mapping):
        raise ValueError(f'custom_params["seer"]: wanted a mapping, got {type(hint).__name__}')
    for key, value in hint.items():
        wanted = _HINT_TYPES.get(key)
        if wanted is None:
            raise ValueError(f'custom_params["seer"]: unknown key {key!r}; known are {", ".join(_HINT_TYPES)}')
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f'custom_params["seer"][{key!r}]: got {value!r} of type {type(value).__name__}')
    return hint


def identify(
    custom_params: Mapping[str, Any] | None, prompt: Sequence[int], max_new_tokens: int | None
) -> Identity | None:
    """Identity of a request, or None for requests that generate nothing (health checks, n > 1 warm-ups).

    `prompt` holds the request's input tokens; with a `prompt_len` hint only the first `prompt_len` are the prompt and
    the rest is what earlier chunks generated. Raises ValueError on a malformed hint.
    """
    if max_new_tokens is None or max_new_tokens <= 0:
        return None
    hint: Mapping[str, Any] = {}
    if custom_params is not None and "seer" in custom_params:
        hint = _checked_hint(custom_params["seer"])
    prompt_tokens = hint.get("prompt_len", len(prompt))
    if not 0 < prompt_tokens <= len(prompt):
        raise ValueError(
            f'custom_params["seer"]["prompt_len"]: got {prompt_tokens}, wanted 1 to {len(prompt)} (the input length)'
        )
    limit = hint.get("limit", len(prompt) - prompt_tokens + max_new_tokens)
    if limit <= 0:
        raise ValueError(f'custom_params["seer"]["limit"]: got {limit}, wanted a positive number of tokens')
    if "group" in hint:
        group = f"id:{hint['group']}"
    else:
        digest = hashlib.blake2b(array("q", prompt[:prompt_tokens]).tobytes(), digest_size=16)
        group = f"prompt:{digest.hexdigest()}"
    return Identity(group=group, prompt_tokens=prompt_tokens, limit_tokens=limit)
