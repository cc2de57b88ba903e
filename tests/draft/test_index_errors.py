"""Bad input names the field and leaves the index as it was; what is no input is no work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sglang_seer.draft import SuffixIndex
from sglang_seer.draft.index import MAX_BUDGET, MAX_DEPTH

VOCAB_SIZE = 10


@pytest.fixture
def index() -> SuffixIndex:
    index = SuffixIndex(vocab_size=VOCAB_SIZE)
    index.open_group(1, [1, 2, 3])
    index.open_group(2, [1, 2, 3])
    index.append([1, 1], [10, 11], [0, 0], [4, 5, 6, 2, 3], [3, 2])
    return index


def content(index: SuffixIndex) -> tuple[Any, ...]:
    proposal = index.propose([1, 1, 1, 2], [10, 11, 12, 10], [8] * 4)
    lengths = [index.length(g, s) for g in (1, 2) for s in (10, 11, 12)]
    trees = (proposal.tokens, proposal.parents, proposal.probabilities, proposal.starts)
    return (
        index.num_groups,
        index.num_tokens,
        index.memory_bytes,
        lengths,
        *(values.tolist() for values in trees),
    )


# Each batch begins with a good item, which must not be applied either.
BAD_APPENDS: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "unknown group": (([1, 9], [10, 10], [3, 0], [1, 1], [1, 1]), ValueError, r"groups\[1\] is 9"),
    "gap": (([1, 1], [10, 11], [3, 4], [1, 1], [1, 1]), ValueError, r"offsets\[1\] is 4, .* 0 to 2"),
    "gap within": (([1, 1], [10, 10], [3, 5], [1, 1], [1, 1]), ValueError, r"offsets\[1\] is 5"),
    "gap in new": (([1, 1], [10, 12], [3, 1], [1, 1], [1, 1]), ValueError, r"offsets\[1\] is 1"),
    "negative offset": (([1, 1], [10, 11], [3, -1], [1, 1], [1, 1]), ValueError, r"offsets\[1\] is -1"),
    "negative length": (([1, 1], [10, 11], [3, 2], [1], [2, -1]), ValueError, r"lengths\[0\] is 2"),
    "huge length": (([1, 1], [10, 11], [3, 2], [1], [1, 2**62]), ValueError, r"lengths\[1\]"),
    "tokens left": (([1], [10], [3], [1, 1], [1]), ValueError, "tokens has 2 elements, wanted 1"),
    "token too large": (([1], [10], [3], [1, 10], [2]), ValueError, r"tokens\[1\] is 10, .* 0 to 9"),
    "negative token": (([1], [10], [3], [1, -1], [2]), ValueError, r"tokens\[1\] is -1"),
    "token that would wrap": (([1], [10], [3], [1, 2**32], [2]), ValueError, "tokens has values"),
    "sizes": (([1, 1], [10], [3, 2], [1, 1], [1, 1]), ValueError, "sequences has 1 elements"),
    "sizes of offsets": (([1], [10], [], [1], [1]), ValueError, "offsets has 0 elements"),
    "sizes of lengths": (([1], [10], [3], [1], [1, 0]), ValueError, "lengths has 2 elements"),
    "dimensions": (([1], [10], [3], [[1]], [1]), ValueError, "tokens has 2 dimensions"),
    "floats": (([1], [10], [3], [1.5], [1]), TypeError, "tokens has dtype float64"),
}


@pytest.mark.parametrize("case", BAD_APPENDS)
def test_bad_append_changes_nothing(index: SuffixIndex, case: str) -> None:
    arguments, error, message = BAD_APPENDS[case]
    before = content(index)
    with pytest.raises(error, match=message):
        index.append(*arguments)
    assert content(index) == before


BAD_CALLS: dict[str, tuple[Callable[[SuffixIndex], object], str]] = {
    "group of propose": (lambda i: i.propose([1, 3], [10, 10], [8, 8]), r"groups\[1\] is 3"),
    "budget": (
        lambda i: i.propose([1, 1], [10, 10], [8, MAX_BUDGET + 1]),
        rf"budgets\[1\] is {MAX_BUDGET + 1}, wanted a value from 0 to {MAX_BUDGET}",
    ),
    "negative budget": (lambda i: i.propose([1], [10], [-1]), r"budgets\[0\] is -1"),
    "depth 0": (lambda i: i.propose([1], [10], [8], 0), "max_depth is 0"),
    "depth": (lambda i: i.propose([1], [10], [8], MAX_DEPTH + 1), "max_depth is"),
    "sizes": (lambda i: i.propose([1], [10, 11], [8]), "sequences has 2 elements, wanted 1"),
    "sizes of budgets": (lambda i: i.propose([1], [10], []), "budgets has 0 elements"),
    "other prompt": (lambda i: i.open_group(1, [1, 2, 4]), "prompt differs"),
    "longer prompt": (lambda i: i.open_group(1, [1, 2, 3, 4]), "prompt differs"),
    "prompt token": (lambda i: i.open_group(3, [1, 10]), r"prompt\[1\] is 10"),
    "length": (lambda i: i.length(3, 10), "group is 3"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_call_changes_nothing(index: SuffixIndex, case: str) -> None:
    call, message = BAD_CALLS[case]
    before = content(index)
    with pytest.raises(ValueError, match=message):
        call(index)
    assert content(index) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 0),
        ("vocab_size", 2**31),
        ("max_match", 0),
        ("max_match", 257),
        ("max_candidates", 0),
        ("max_candidates", 4097),
    ],
)
def test_bad_limits(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        SuffixIndex(**{"vocab_size": 10, name: value})


def test_nothing_to_do(index: SuffixIndex) -> None:
    before = content(index)
    index.append([], [], [], [], [])
    index.append([1], [12], [0], [], [0])
    index.open_group(1, [1, 2, 3])
    index.drop_sequence(1, 99)
    index.drop_sequence(99, 1)
    index.drop_group(99)
    assert content(index) == before
    proposal = index.propose([], [], [])
    assert proposal.tokens.size == 0
    assert proposal.starts.tolist() == [0]


def test_no_history_no_nodes() -> None:
    index = SuffixIndex(vocab_size=VOCAB_SIZE)
    index.open_group(1, [])
    assert index.propose([1], [5], [8]).tokens.size == 0
    index.append([1], [5], [0], [3], [1])
    assert index.propose([1, 1], [5, 6], [8, 8]).tokens.size == 0


def test_dtypes(index: SuffixIndex) -> None:
    proposal = index.propose(np.array([1], np.int16), np.array([10], np.uint8), [8])
    assert proposal.tokens.dtype == proposal.parents.dtype == proposal.depths.dtype == np.int32
    assert proposal.probabilities.dtype == np.float32
    assert proposal.starts.dtype == np.int64


def test_strided_input(index: SuffixIndex) -> None:
    plain = index.propose([1, 1], [10, 11], [8, 8])
    strided = index.propose(np.array([1, 7, 1, 7])[::2], np.array([10, 0, 11, 0])[::2], [8, 8])
    assert strided.tokens.tolist() == plain.tokens.tolist()


def test_dropped_memory_is_used_again() -> None:
    index = SuffixIndex(vocab_size=VOCAB_SIZE)
    tokens = np.arange(20_000, dtype=np.int32) % VOCAB_SIZE

    def fill(group: int) -> int:
        index.open_group(group, tokens[:100])
        index.append([group], [0], [0], tokens, [tokens.size])
        return index.memory_bytes

    first = fill(0)
    for group in range(1, 5):
        index.drop_group(group - 1)
        assert fill(group) < first * 1.01
    index.clear()
    assert (index.num_groups, index.num_tokens) == (0, 0)
    assert index.memory_bytes < first / 10


def test_memory_of_dropped_sequences_is_used_again() -> None:
    """However often a sequence is dropped and written again; a leak would show after a few rounds."""
    index = SuffixIndex(vocab_size=VOCAB_SIZE)
    index.open_group(0, [1, 2, 3])
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, 20_000).astype(np.int32)
    sizes = []
    for _ in range(12):
        index.append([0], [0], [0], tokens, [tokens.size])
        sizes.append(index.memory_bytes)
        index.drop_sequence(0, 0)
        assert index.num_tokens == 3
    assert max(sizes) < 2.5 * sizes[0]
