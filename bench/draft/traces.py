"""Trace files: real responses of language models, several per prompt.

`*.jsonl.zst`, one JSON object a line: `prompt` (str), `responses` (list of str), optional `group` (the key of an agent
task; where it is missing every line is its own group) and `turns` (agent episodes, one list of {role, text} per
response): there only the text of the role `assistant` was generated, the rest is context that arrives between turns.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

SUFFIX = ".jsonl.zst"


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of text, written by the model or put before it."""

    text: str
    generated: bool


@dataclass(slots=True)
class TraceGroup:
    """One prompt and the segments of each of its responses."""

    prompt: str
    responses: list[list[Segment]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TraceSet:
    name: str
    groups: list[TraceGroup]

    def texts(self) -> Iterator[str]:
        """Every text of the set, in its order."""
        for group in self.groups:
            yield group.prompt
            for response in group.responses:
                yield from (segment.text for segment in response)


def read_folder(folder: Path) -> list[TraceSet]:
    """The sets of a folder, one a file, by name. Raises ValueError if it holds none or one is not as described."""
    files = sorted(folder.glob("*" + SUFFIX))
    if not files:
        raise ValueError(f"--data {folder}: wanted at least one *{SUFFIX} file, saw none")
    return [read_file(path) for path in files]


def read_file(path: Path) -> TraceSet:
    """The groups of one file. Raises ValueError naming the line that is not as described."""
    groups: dict[tuple[Any, ...], TraceGroup] = {}
    with path.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as plain:
        lines = io.TextIOWrapper(plain, encoding="utf-8")
        try:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                    prompt, responses = _responses(row)
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{path.name}, line {number}: {type(error).__name__}: {error}") from error
                key = (prompt, str(row["group"])) if "group" in row else (number,)
                groups.setdefault(key, TraceGroup(prompt)).responses += responses
        except zstandard.ZstdError as error:
            raise ValueError(f"{path.name}: not a zstd file: {error}") from error
    return TraceSet(path.name.removesuffix(SUFFIX), list(groups.values()))


def _responses(row: dict[str, Any]) -> tuple[str, list[list[Segment]]]:
    prompt, texts = row["prompt"], row["responses"]
    if not isinstance(prompt, str) or not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("wanted prompt as a string and responses as a list of strings")
    if "turns" in row:
        return prompt, [_episode(turns) for turns in row["turns"]]
    return prompt, [[Segment(text, generated=True)] for text in texts]


def _episode(turns: list[dict[str, str]]) -> list[Segment]:
    """Turns as segments; a turn's role is context too, as in a chat template."""
    segments = []
    for turn in turns:
        generated = turn["role"] == "assistant"
        segments.append(Segment(f"\n\n{turn['role']}: ", generated=False))
        segments.append(Segment(turn["text"], generated=generated))
    return segments
