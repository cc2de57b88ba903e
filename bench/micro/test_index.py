"""Append, propose and drop of the draft index: `pytest bench/micro --benchmark-json FILE` (pytest-benchmark).

64 requests in 8 groups, generated text. Each round of `append` adds 2 tokens to every request.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.draft import synthetic
from sglang_seer.draft import SuffixIndex

GROUPS, SIBLINGS = 8, 8
STEP = 2
ROUNDS = 400


class Filled:
    """An index that holds `tokens` of each request, and the arrays of one call for all of them."""

    def __init__(self, tokens: int) -> None:
        length = tokens + STEP * (ROUNDS + 1)
        sources = [synthetic.TextSource(0, group) for group in range(GROUPS)]
        self.text = np.stack([source.response(length).tokens for source in sources for _ in range(SIBLINGS)])
        self.groups = np.repeat(np.arange(GROUPS), SIBLINGS)
        self.sequences = np.arange(GROUPS * SIBLINGS)
        self.known = 0
        self.index = SuffixIndex(vocab_size=synthetic.VOCAB_SIZE)
        for group, source in enumerate(sources):
            self.index.open_group(group, source.prompt)
        self.append(*self.step(tokens))

    def step(self, count: int) -> tuple[Any, ...]:
        """The arguments of `append` for the next `count` tokens of every request."""
        size = len(self.sequences)
        offsets, lengths = np.full(size, self.known), np.full(size, count)
        new = np.ascontiguousarray(self.text[:, self.known : self.known + count]).ravel()
        self.known += count
        return self.groups, self.sequences, offsets, new, lengths

    def append(self, *step: Any) -> None:
        self.index.append(*step)


@pytest.fixture(params=[1_000, 16_000], ids=lambda tokens: f"{tokens} tokens a request")
def filled(request: pytest.FixtureRequest) -> Filled:
    return Filled(request.param)


@pytest.mark.benchmark(group="append 2 tokens to each of 64 requests")
def test_append(benchmark: Any, filled: Filled) -> None:
    benchmark.pedantic(filled.append, setup=lambda: (filled.step(STEP), {}), rounds=ROUNDS)


@pytest.mark.benchmark(group="draft for 64 requests")
@pytest.mark.parametrize(("nodes", "chain"), [(8, True), (8, False), (32, False)], ids=["chain8", "tree8", "tree32"])
def test_propose(benchmark: Any, filled: Filled, nodes: int, chain: bool) -> None:
    budgets = np.full(len(filled.sequences), nodes, dtype=np.int32)
    benchmark(filled.index.propose, filled.groups, filled.sequences, budgets, nodes, chain=chain)


@pytest.mark.benchmark(group="drop a response")
def test_drop_sequence(benchmark: Any, filled: Filled) -> None:
    left = iter(filled.sequences.tolist())

    def next_one() -> tuple[tuple[int, int], dict[str, Any]]:
        sequence = next(left)
        return (sequence // SIBLINGS, sequence), {}

    benchmark.pedantic(filled.index.drop_sequence, setup=next_one, rounds=GROUPS * SIBLINGS)


@pytest.mark.benchmark(group="drop a group of 8 responses")
def test_drop_group(benchmark: Any, filled: Filled) -> None:
    left = iter(range(GROUPS))
    benchmark.pedantic(filled.index.drop_group, setup=lambda: ((next(left),), {}), rounds=GROUPS)
