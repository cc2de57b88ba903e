"""The texts of the timing cases: many requests in groups, siblings' text as alike as real siblings' text is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from bench.draft import synthetic
from bench.draft.drafter import Request, Tokens
from bench.draft.tokens import encode
from bench.draft.traces import TraceSet

PROMPT_TOKENS = 64
UNTIMED_STEPS = 3
"""Of a block: two that warm up, and one of single calls."""


@dataclass(frozen=True, slots=True)
class Case:
    """`groups` of `siblings` requests that hold `tokens` response tokens each when the timing starts."""

    name: str
    groups: int
    siblings: int
    tokens: int
    steps: int
    """Timed steps a block and shape; each appends 1 to 3 tokens to every request and drafts for all of them."""
    blocks: int = 3

    @property
    def requests(self) -> int:
        return self.groups * self.siblings

    def reserve(self, shapes: int) -> int:
        """Tokens a request needs beyond the first `tokens`: at most 3 a step, timed, untimed or of single calls."""
        return 3 * (self.steps + UNTIMED_STEPS) * self.blocks * shapes + 1


def write(case: Case, sets: Sequence[TraceSet], tokenizer: Tokenizer | None, path: Path, *, shapes: int) -> int:
    """Writes the case's texts and returns how many groups are of real text.

    The file is [requests, PROMPT_TOKENS + tokens + reserve] int32, all siblings of a group next to each other.

    A real group's sibling j is the j-th response to one prompt after another, the same prompts for all siblings. No
    prompt is used twice; groups for which no prompts are left are generated.
    """
    length = case.tokens + case.reserve(shapes)
    units = _units(sets, tokenizer, case.siblings)
    real = 0
    texts = []
    for group in range(case.groups):
        rows = _real_group(units, case.siblings, PROMPT_TOKENS + length)
        if rows is None:
            units = iter(())
            rows = _generated_group(group, case.siblings, PROMPT_TOKENS + length)
        else:
            real += 1
        texts += rows
    np.save(path, np.stack(texts))
    return real


def read(case: Case, path: Path) -> list[Request]:
    """The case's requests, nothing generated yet."""
    texts = np.load(path)
    return [
        Request(number, number // case.siblings, text, PROMPT_TOKENS, PROMPT_TOKENS)
        for number, text in enumerate(texts)
    ]


def _units(
    sets: Sequence[TraceSet], tokenizer: Tokenizer | None, siblings: int
) -> Iterator[tuple[Tokens, list[Tokens]]]:
    """Prompts with enough responses, in a seeded order, as tokens."""
    if tokenizer is None:
        return
    groups = [group for one in sets for group in one.groups if len(group.responses) >= siblings]
    random.Random(0).shuffle(groups)
    for group in groups:
        encoded = encode(group.prompt, group.responses[:siblings], tokenizer)
        if len(encoded.responses) == siblings:
            yield encoded.prompt, [response.tokens for response in encoded.responses]


def _real_group(units: Iterator[tuple[Tokens, list[Tokens]]], siblings: int, length: int) -> list[Tokens] | None:
    rows: list[list[Tokens]] = [[] for _ in range(siblings)]
    lengths = [0] * siblings
    for prompt, responses in itertools.takewhile(lambda _unit: min(lengths) < length, units):
        for place, response in enumerate(responses):
            rows[place] += [prompt, response]
            lengths[place] += len(prompt) + len(response)
    if min(lengths) < length:
        return None
    return _same_start([np.concatenate(pieces)[:length] for pieces in rows])


def _same_start(rows: list[Tokens]) -> list[Tokens]:
    """Siblings share their prompt, so the first tokens of all are those of the first."""
    for row in rows[1:]:
        row[:PROMPT_TOKENS] = rows[0][:PROMPT_TOKENS]
    return rows


def _generated_group(group: int, siblings: int, length: int) -> list[Tokens]:
    source = synthetic.TextSource(1, group)
    return _same_start([source.response(length).tokens for _ in range(siblings)])
