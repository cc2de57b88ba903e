"""Text over the seams of chunks: stop strings that straddle one, characters of several tokens, the text at the end.

An engine looks for stop strings in the tokens of its own chunk. So after a seam the same rule as SGLang's is applied
here to the windows that reach back over it: a stop string ends the response at the first token after which the decoded
last tokens contain it, as many tokens as the longest stop string has, and one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from sglang_seer.rollout.exact import Plan

# SGLang decodes a response with so many tokens of its prompt before it, so that a leading space is kept or dropped.
CONTEXT_TOKENS = 5


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int], **options: Any) -> str: ...

    def apply_chat_template(self, messages: Any, **options: Any) -> Any: ...


class Stop(NamedTuple):
    """length: tokens of the response, the stop included."""

    length: int
    matched: str | int


class Seams:
    """The rules for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._windows: dict[tuple[str, ...], int] = {}

    def window_tokens(self, stops: tuple[str, ...]) -> int:
        """How many last tokens are searched for these stop strings."""
        known = self._windows.get(stops)
        if known is None:
            longest = max(len(self._tokenizer.encode(stop, add_special_tokens=False)) for stop in stops)
            known = self._windows[stops] = longest + 1
        return known

    def stop_over_seam(self, stops: tuple[str, ...], output_ids: Sequence[int], seam: int) -> Stop | None:
        """The first stop string whose window reaches over `seam` (tokens before the chunk), None without one."""
        if not stops or not seam:
            return None
        window = self.window_tokens(stops)
        for length in range(seam + 1, min(seam + window, len(output_ids) + 1)):
            text = self._tokenizer.decode(output_ids[max(length - window, 0) : length])
            for stop in stops:
                if stop in text:
                    return Stop(length, stop)
        return None

    def text(self, input_ids: Sequence[int], output_ids: Sequence[int], plan: Plan, matched: str | int | None) -> str:
        """The response as the engine's detokenizer writes it, a matched stop cut off unless `no_stop_trim`."""
        trim = not plan.sampling.get("no_stop_trim")
        if trim and isinstance(matched, int) and output_ids and output_ids[-1] == matched:
            output_ids = output_ids[:-1]
        options = {
            "skip_special_tokens": plan.sampling.get("skip_special_tokens", True),
            "spaces_between_special_tokens": plan.sampling.get("spaces_between_special_tokens", True),
        }
        before = list(input_ids[-CONTEXT_TOKENS:])
        text = self._tokenizer.decode([*before, *output_ids], **options)
        text = text[len(self._tokenizer.decode(before, **options)) :]
        if isinstance(matched, str) and (at := text.find(matched)) >= 0:
            text = text[:at] if trim else text[: at + len(matched)]
        return text
