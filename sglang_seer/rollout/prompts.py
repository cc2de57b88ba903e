"""Prompts from a file, and their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from sglang_seer.rollout.samples import Prompt
from sglang_seer.rollout.seams import Tokenizer


class Line(msgspec.Struct, forbid_unknown_fields=False):
    """One line of a prompts file: one of prompt, text, messages and input_ids. The other fields go to `metadata`."""

    prompt: str | list[dict[str, Any]] | None = None
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    input_ids: list[int] | None = None
    group: str | int | None = None
    sampling: dict[str, Any] = {}


_KNOWN = set(Line.__struct_fields__)


class BadLineError(ValueError):
    """A line that is no prompt; the text says which and why."""


def read_prompts(
    path: Path, *, samples: int, sampling: Mapping[str, Any], seed: int
) -> Iterator[Prompt | BadLineError]:
    """Prompts in the order of the lines, empty lines left out; a bad one is yielded as its error.

    A line's own `sampling` goes before the common one. Raises ValueError for a file that cannot be read.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield _prompt(line, number, samples=samples, sampling=sampling, seed=seed)
                    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
                        yield BadLineError(f"{path}, line {number}: {error}")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; wanted a JSONL file of prompts") from error


def _prompt(line: bytes, number: int, *, samples: int, sampling: Mapping[str, Any], seed: int) -> Prompt:
    value = msgspec.json.decode(line)
    if not isinstance(value, dict):
        raise ValueError('wanted an object like {"prompt": "..."}')
    fields = msgspec.convert(value, Line)
    text, messages = fields.text, fields.messages
    # A plain prompt is one user turn, as in chat.
    if isinstance(fields.prompt, str):
        messages = [{"role": "user", "content": fields.prompt}]
    elif fields.prompt is not None:
        messages = fields.prompt
    if fields.input_ids is not None and not fields.input_ids:
        raise ValueError("input_ids: wanted at least one token")
    return Prompt(
        group=str(fields.group) if fields.group is not None else f"line-{number}",
        input_ids=fields.input_ids or (),
        text=text,
        messages=messages,
        samples=samples,
        sampling={**sampling, **fields.sampling},
        seed=seed,
        metadata={key: item for key, item in value.items() if key not in _KNOWN} or None,
    )


def ids_of(prompt: Prompt, tokenizer: Tokenizer | None) -> list[int]:
    """Its tokens. Raises ValueError for text without a tokenizer, and for a prompt of no tokens."""
    if prompt.input_ids:
        return list(prompt.input_ids)
    if tokenizer is None:
        raise ValueError(f"prompt {prompt.group!r}: got text, wanted input_ids where there is no tokenizer")
    if prompt.messages is not None:
        messages = [dict(message) for message in prompt.messages]
        if getattr(tokenizer, "chat_template", None) is None:
            ids = tokenizer.encode("\n".join(str(message.get("content", "")) for message in messages))
        else:
            rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            # The template has written the special tokens already.
            ids = tokenizer.encode(rendered, add_special_tokens=False)
    else:
        assert prompt.text is not None
        ids = tokenizer.encode(prompt.text)
    if not ids:
        raise ValueError(f"prompt {prompt.group!r}: wanted at least one token")
    return ids
