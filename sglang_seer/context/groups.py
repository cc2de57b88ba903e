"""Which requests are siblings, and what their finished members tell.

A request says its group in `sampling_params.custom_params["seer"]`; without that, requests with the same prompt
tokens are one group. Both sides of a tensor-parallel engine derive the same identity from the same request.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
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


class GroupTable:
    """Longest finished response by group, bounded: the group untouched for longest goes first.

    `version` grows whenever an answer changes, so that callers can keep what they derived from `longest_tokens`.
    """

    def __init__(self, max_groups: int = 65_536) -> None:
        self._max_groups = max_groups
        self._touched: OrderedDict[str, None] = OrderedDict()
        self._longest: dict[str, int] = {}
        self.version = 0

    @property
    def longest_tokens(self) -> Mapping[str, int]:
        """Longest finished response in tokens, for groups with a finished member. Live: do not change it."""
        return self._longest

    def touch(self, group: str) -> None:
        """Register a group, or mark it as in use."""
        self._touched[group] = None
        self._touched.move_to_end(group)
        if len(self._touched) > self._max_groups:
            forgotten, _ = self._touched.popitem(last=False)
            if self._longest.pop(forgotten, None) is not None:
                self.version += 1

    def finish(self, group: str, length_tokens: int) -> None:
        """A member ended by itself or at its limit after `length_tokens` response tokens."""
        self.touch(group)
        known = self._longest.get(group)
        if known is None or length_tokens > known:
            self._longest[group] = length_tokens
            self.version += 1

    def member_lost(self) -> None:
        """A member ended without a length (aborted): it is nobody's probe any more."""
        self.version += 1

    def clear(self) -> None:
        """Forget everything: the weights changed, so lengths of the old ones no longer count."""
        self._touched.clear()
        self._longest.clear()
        self.version += 1

    def __len__(self) -> int:
        return len(self._touched)
