"""Bad input names the field and leaves the index as it was; what is no input is no work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sglang_seer.draft import Proposal, SuffixIndex
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
    trees = (proposal.tokens, proposal.parents, proposal.probabilities, proposal.evidence, proposal.starts)
    return (
        index.num_groups,
        index.num_tokens,
        index.memory_bytes,
        lengths,
        index.counters,
        *(values.tolist() for values in trees),
    )


# Each batch begins with a good item, which must not be applied either.
BAD_APPENDS: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "unknown group": (([1, 9], [10, 10], [3, 0], [1, 1], [1, 1]), ValueError, r"groups\[1\] is 9"),
    "gap": (([1, 1], [10, 11], [3, 4], [1, 1], [1, 1]), ValueError, r"offsets\[1\] is 4, .* 0 to 2"),
    "gap within": (([1, 1], [10, 10], [3, 5], [1, 1], [1, 1]), ValueError, r"offsets\[1\] is 5"),
    "gap within, out of order": (([1, 1], [10, 10], [5, 3], [1, 1], [1, 1]), ValueError, r"offsets\[0\] is 5"),
    "gap in new": (([1, 1], [10, 12], [3, 1], [1, 1], [1, 1]), ValueError, r"offsets\[1\] is 1"),
    "gap of nothing": (([1, 1], [10, 11], [3, 4], [1], [1, 0]), ValueError, r"offsets\[1\] is 4"),
    "negative offset": (([1, 1], [10, 11], [3, -1], [1, 1], [1, 1]), ValueError, r"offsets\[1\] is -1"),
    "huge offset": (([1, 1], [10, 11], [3, 2**63 - 1], [1, 1], [1, 1]), ValueError, r"offsets\[1\] is 9223"),
    "least offset": (([1, 1], [10, 11], [3, -(2**63)], [1, 1], [1, 1]), ValueError, r"offsets\[1\] is -9223"),
    "too long": (([1, 1], [10, 11], [3, 2], [1], [2, -1]), ValueError, r"lengths\[0\] is 2"),
    "negative length": (([1, 1], [10, 11], [3, 2], [1], [1, -1]), ValueError, r"lengths\[1\] is -1"),
    "huge length": (([1, 1], [10, 11], [3, 2], [1], [1, 2**62]), ValueError, r"lengths\[1\]"),
    "lengths that wrap around": (([1] * 3, [10, 11, 12], [0] * 3, [1], [1, 2**63 - 1, 1]), ValueError, r"lengths\[1\]"),
    "tokens left": (([1], [10], [3], [1, 1], [1]), ValueError, "tokens has 2 elements, wanted 1"),
    "token too large": (([1], [10], [3], [1, 10], [2]), ValueError, r"tokens\[1\] is 10, .* 0 to 9"),
    "negative token": (([1], [10], [3], [1, -1], [2]), ValueError, r"tokens\[1\] is -1"),
    "token in what is known": (([1], [10], [0], [4, 10], [2]), ValueError, r"tokens\[1\] is 10"),
    "token that would wrap": (([1], [10], [3], [1, 2**32], [2]), ValueError, "tokens has values"),
    "group that would wrap": (([2**63], [10], [3], [1], [1]), ValueError, "groups has values"),
    "sizes": (([1, 1], [10], [3, 2], [1, 1], [1, 1]), ValueError, "sequences has 1 elements"),
    "sizes of offsets": (([1], [10], [], [1], [1]), ValueError, "offsets has 0 elements"),
    "sizes of lengths": (([1], [10], [3], [1], [1, 0]), ValueError, "lengths has 2 elements"),
    "dimensions": (([1], [10], [3], [[1]], [1]), ValueError, "tokens has 2 dimensions"),
    "floats": (([1], [10], [3], [1.5], [1]), TypeError, "tokens has dtype float64"),
    "booleans": (([1], [10], [3], [True], [1]), TypeError, "tokens has dtype bool"),
    "strings": (([1], ["a"], [3], [1], [1]), TypeError, "sequences has dtype <U1"),
    "nothing at all": (([1], [10], [3], None, [1]), TypeError, "tokens has dtype object"),
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
    "absurd budget": (lambda i: i.propose([1], [10], [2**31 - 1]), r"budgets\[0\] is 2147483647"),
    "negative budget": (lambda i: i.propose([1], [10], [-1]), r"budgets\[0\] is -1"),
    "budget that would wrap": (lambda i: i.propose([1], [10], [2**32 + 8]), "budgets has values"),
    "depth 0": (lambda i: i.propose([1], [10], [8], 0), "max_depth is 0"),
    "depth": (lambda i: i.propose([1], [10], [8], MAX_DEPTH + 1), "max_depth is"),
    "sizes": (lambda i: i.propose([1], [10, 11], [8]), "sequences has 2 elements, wanted 1"),
    "sizes of budgets": (lambda i: i.propose([1], [10], []), "budgets has 0 elements"),
    "other prompt": (lambda i: i.open_group(1, [1, 2, 4]), "prompt differs"),
    "longer prompt": (lambda i: i.open_group(1, [1, 2, 3, 4]), "prompt differs"),
    "shorter prompt": (lambda i: i.open_group(1, [1, 2]), "prompt differs"),
    "prompt token": (lambda i: i.open_group(3, [1, 10]), r"prompt\[1\] is 10"),
    "negative prompt token": (lambda i: i.open_group(3, [-1]), r"prompt\[0\] is -1"),
    "prompt of two dimensions": (lambda i: i.open_group(3, [[1]]), "prompt has 2 dimensions"),
    "length": (lambda i: i.length(3, 10), "group is 3"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_call_changes_nothing(index: SuffixIndex, case: str) -> None:
    call, message = BAD_CALLS[case]
    before = content(index)
    with pytest.raises(ValueError, match=message):
        call(index)
    assert content(index) == before


@pytest.mark.parametrize("call", ["open", "propose", "budgets"])
def test_wrong_types(index: SuffixIndex, call: str) -> None:
    before = content(index)
    with pytest.raises(TypeError, match=r"dtype float64|dtype bool|incompatible function arguments"):
        if call == "open":
            index.open_group(3, [0.5])
        elif call == "propose":
            index.propose([1], [10], [8], 2.5)  # type: ignore[arg-type]
        else:
            index.propose([1], [10], [True])
    assert content(index) == before


BAD_OUTCOMES: dict[str, tuple[Callable[[Proposal], tuple[Proposal, Any]], str]] = {
    "too few accepted": (lambda p: (p, [True]), "accepted has 1 elements"),
    "too few parents": (lambda p: (replace(p, parents=p.parents[:-1]), p.tokens > 0), "parents has"),
    "no starts": (lambda p: (replace(p, starts=p.starts[:0]), p.tokens > 0), "starts has no elements"),
    "first start": (lambda p: (replace(p, starts=p.starts + 1), p.tokens > 0), r"starts\[0\] is 1"),
    "falling starts": (lambda p: (replace(p, starts=p.starts[::-1]), p.tokens > 0), r"starts\[0\]"),
    "start beyond the end": (lambda p: (replace(p, starts=p.starts * 2), p.tokens > 0), r"starts\[\d\] is"),
    "last start": (lambda p: (replace(p, starts=p.starts[:-1]), p.tokens > 0), r"starts\[3\] is \d+, wanted"),
    "parent after its child": (lambda p: (replace(p, parents=p.parents + 1), p.tokens > 0), r"parents\[0\] is 0"),
    "parent before the root": (lambda p: (replace(p, parents=p.parents - 1), p.tokens > 0), r"parents\[0\] is -2"),
    "evidence": (lambda p: (replace(p, evidence=p.evidence | 1 << 62), p.tokens > 0), r"evidence\[0\] is 4\d+"),
    "first evidence of none": (lambda p: (replace(p, evidence=p.evidence * 0 + (390 << 48)), p.tokens > 0), "evidence"),
    "negative evidence": (lambda p: (replace(p, evidence=-p.evidence), p.tokens > 0), r"evidence\[0\] is -"),
    "dimensions": (lambda p: (p, [p.tokens > 0]), "accepted has 2 dimensions"),
}


@pytest.mark.parametrize("case", BAD_OUTCOMES)
def test_bad_outcome_changes_nothing(index: SuffixIndex, case: str) -> None:
    before = content(index)
    proposal = index.propose([1, 1, 1, 2], [10, 11, 12, 10], [8] * 4)
    # The last tree has nodes, or cutting the last start off would change nothing.
    assert proposal.starts[-1] > proposal.starts[-2]
    corrupt, message = BAD_OUTCOMES[case]
    with pytest.raises(ValueError, match=message):
        index.observe(*corrupt(proposal))
    assert content(index) == before
    # The same proposal, whole, does change the probabilities.
    index.observe(proposal, np.zeros(proposal.tokens.size, bool))
    assert content(index) != before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 0),
        ("vocab_size", 2**31),
        ("max_match", 3),
        ("max_match", 257),
        ("max_candidates", 0),
        ("max_candidates", 257),
        ("max_bytes", (4 << 20) - 1),
        ("max_bytes", 2**62),
        ("max_tokens", 1023),
        ("group_max_bytes", (64 << 10) - 1),
        ("group_max_tokens", 1023),
        ("group_max_tokens", -1),
        ("ttl_steps", -1),
        ("shared_bytes", -1),
        ("shared_bytes", (2 << 30) + 1),
        ("threads", 0),
        ("threads", 17),
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
    index.drop_version(99)
    index.observe(index.propose([], [], []), [])
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
    assert proposal.evidence.dtype == np.int64
    assert proposal.probabilities.dtype == np.float32
    assert proposal.starts.dtype == np.int64


def test_strided_and_byte_swapped_input(index: SuffixIndex) -> None:
    plain = index.propose([1, 1], [10, 11], [8, 8])
    strided = index.propose(np.array([1, 7, 1, 7])[::2], np.array([10, 11], ">i8"), [8, 8])
    assert strided.tokens.tolist() == plain.tokens.tolist()
