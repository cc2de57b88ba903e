"""At the limits: nothing grows past them, nothing fails, and what is recent stays."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sglang_seer.draft import SuffixIndex
from sglang_seer.draft.index import MAX_BUDGET
from tests.draft.tree_check import check_shape, trees

MIB = 1 << 20
VOCAB_SIZE = 64


class LimitMachine(RuleBasedStateMachine):
    """Few limits, large texts: whatever is evicted, what holds for every proposal holds."""

    @initialize(
        max_bytes=st.sampled_from([4 * MIB, 8 * MIB]),
        max_tokens=st.sampled_from([1024, 5000, 1 << 32]),
        group_max_bytes=st.sampled_from([64 << 10, 1 << 30]),
        group_max_tokens=st.sampled_from([1024, 1 << 30]),
        ttl_steps=st.sampled_from([0, 2]),
        shared_bytes=st.sampled_from([0, 4096, 1 * MIB]),
    )
    def make(self, **limits: int) -> None:
        self.limits = limits
        self.index = SuffixIndex(vocab_size=VOCAB_SIZE, **limits)
        self.prompts: dict[int, list[int]] = {}
        self.responses: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.pairs: set[tuple[int, int]] = set()  # of neighbours, in all texts ever
        self.counters = self.index.counters
        # Something to start from: most rules need open groups.
        for group in range(4):
            self.open_group(group, group, 200, group + 1)
            self.write([(group, 0), (group, 1)], 700, VOCAB_SIZE, group)

    def forget_closed(self) -> None:
        for group in [group for group in self.prompts if group not in self.index]:
            del self.prompts[group]
            for key in [key for key in self.responses if key[0] == group]:
                del self.responses[key]

    def text(self, group: int, sequence: int) -> list[int]:
        return self.prompts[group] + self.responses[group, sequence]

    @rule(group=st.integers(0, 30), seed=st.integers(0, 9), size=st.integers(0, 300), memory=st.integers(0, 30))
    def open_group(self, group: int, seed: int, size: int, memory: int) -> None:
        prompt = np.random.default_rng(seed).integers(0, VOCAB_SIZE, size).tolist()
        if self.prompts.setdefault(group, prompt) == prompt:
            self.index.open_group(group, prompt, version=group % 3, memory=memory)
            self.pairs.update(itertools.pairwise(prompt))

    @precondition(lambda self: self.prompts)
    @rule(data=st.data(), kinds=st.sampled_from([1, 2, VOCAB_SIZE]), seed=st.integers(0, 99))
    def append(self, data: st.DataObject, kinds: int, seed: int) -> None:
        known = st.tuples(st.sampled_from(sorted(self.prompts)), st.integers(0, 3))
        keys = data.draw(st.lists(known, min_size=1, max_size=6, unique=True))
        self.write(keys, data.draw(st.sampled_from([1, 5, 130, 3000])), kinds, seed)

    def write(self, keys: list[tuple[int, int]], size: int, kinds: int, seed: int) -> None:
        """Random text, a bit of which repeats what is stored."""
        random = np.random.default_rng(seed)
        offsets, new = [], []
        for group, sequence in keys:
            response = self.responses[group, sequence]
            back = min(len(response), int(random.integers(0, 9)))
            offsets.append(len(response) - back)
            new.append(response[len(response) - back :] + random.integers(0, kinds, size).tolist())
            response += new[-1][back:]
            self.pairs.update(itertools.pairwise(self.text(group, sequence)[-size - 1 :]))
        groups, sequences = [group for group, _ in keys], [sequence for _, sequence in keys]
        tokens = [token for text in new for token in text]
        self.index.append(groups, sequences, offsets, tokens, [len(text) for text in new])
        assert all(group in self.index for group in groups)

    @precondition(lambda self: self.prompts)
    @rule(data=st.data(), budget=st.integers(0, MAX_BUDGET), chain=st.booleans())
    def propose(self, data: st.DataObject, budget: int, chain: bool) -> None:
        known = st.tuples(st.sampled_from(sorted(self.prompts)), st.integers(0, 4))
        keys = data.draw(st.lists(known, min_size=1, max_size=8))
        proposal = self.index.propose([g for g, _ in keys], [s for _, s in keys], [budget] * len(keys), chain=chain)
        for (group, sequence), tree in zip(keys, trees(proposal), strict=True):
            check_shape(tree, budget, 16, chain)
            last = self.text(group, sequence)[-1:]
            for node in tree:
                before = tree[node.parent].token if node.parent >= 0 else last[0]
                assert (before, node.token) in self.pairs
        accepted = proposal.tokens % 3 == 0
        self.index.observe(proposal, accepted)

    @precondition(lambda self: self.prompts)
    @rule(data=st.data(), sequence=st.integers(0, 3))
    def drop_sequence(self, data: st.DataObject, sequence: int) -> None:
        group = data.draw(st.sampled_from(sorted(self.prompts)))
        self.index.drop_sequence(group, sequence)
        self.responses.pop((group, sequence), None)

    @rule(group=st.integers(0, 30))
    def drop_group(self, group: int) -> None:
        self.index.drop_group(group)

    @rule(version=st.integers(0, 2))
    def drop_version(self, version: int) -> None:
        self.index.drop_version(version)

    @invariant()
    def within_limits(self) -> None:
        self.forget_closed()
        assert self.index.memory_bytes <= self.limits["max_bytes"]
        assert self.index.num_tokens <= self.limits["max_tokens"]
        assert self.index.num_groups == len(self.prompts)
        assert self.index.num_tokens <= len(self.prompts) * self.limits["group_max_tokens"]
        for (group, sequence), response in self.responses.items():
            assert self.index.length(group, sequence) == len(response)
        counters = self.index.counters
        assert all(counters[name] >= self.counters[name] for name in counters)
        assert counters["refused_tokens"] == 0
        self.counters = counters


TestLimitMachine = LimitMachine.TestCase
TestLimitMachine.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)


def follows(index: SuffixIndex, group: int, sequence: int, text: np.ndarray) -> bool:
    """Whether a sibling that begins like the end of a text is led on along it."""
    index.append([group], [sequence], [0], text[:20], [20])
    proposal = index.propose([group], [sequence], [8], chain=True)
    return bool(proposal.tokens.tolist() == text[20:28].tolist())


class Watched:
    """An index that is looked at after every call."""

    def __init__(self, **limits: int) -> None:
        self.limits = {"max_tokens": 1 << 32, **limits}
        self.index = SuffixIndex(vocab_size=50_000, **self.limits)
        self.random = np.random.default_rng(0)
        self.appended = 0

    def append(self, groups: np.ndarray, sequences: np.ndarray, offset: int, size: int) -> np.ndarray:
        """Random text, [num_items, size]."""
        count = len(groups)
        text = self.random.integers(0, 50_000, (count, size)).astype(np.int32)
        self.index.append(groups, sequences, np.full(count, offset), text.ravel(), np.full(count, size))
        self.appended += text.size
        assert self.index.memory_bytes <= self.limits["max_bytes"]
        assert self.index.num_tokens <= self.limits["max_tokens"]
        return text


TOKENS = 10_000_000


@pytest.mark.parametrize(
    "limits",
    [
        {"max_bytes": 4 * MIB, "shared_bytes": 1 * MIB},
        {"max_bytes": 64 * MIB},
        {"max_bytes": 64 * MIB, "max_tokens": 300_000},
        {"max_bytes": 64 * MIB, "group_max_tokens": 100_000, "group_max_bytes": 8 * MIB},
    ],
    ids=["4 MiB", "64 MiB", "tokens", "of a group"],
)
def test_ten_million_tokens_of_one_group(limits: dict[str, int]) -> None:
    watched = Watched(**limits)
    index = watched.index
    index.open_group(0, [1, 2, 3])
    # Two responses at a time, no more tokens in a call than it makes findable.
    groups, size = np.zeros(2, np.int64), 2000
    for number in range(TOKENS // (2 * size)):
        # Ten calls a sequence.
        sequence, offset = number // 10 * 2, number % 10 * size
        text = watched.append(groups, np.array([sequence, sequence + 1]), offset, size)
        assert index.num_tokens <= index_limit(limits)
    assert watched.appended == TOKENS
    # Some of the newest text is there, in the pages of tokens, in the chains and at the right place.
    assert index.num_tokens > 3000
    assert follows(index, 0, -1, text[1, -100:])
    counters = index.counters
    assert counters["evicted_tokens"] == TOKENS + 3 + 20 - index.num_tokens
    assert counters["refused_tokens"] == counters["evicted_groups"] == 0


def index_limit(limits: dict[str, int]) -> int:
    return min(limits.get("max_tokens", 1 << 32), limits.get("group_max_tokens", 1 << 32))


def test_ten_million_tokens_of_many_groups() -> None:
    """Groups of 16 responses come one after the other and are never dropped."""
    watched = Watched(max_bytes=64 * MIB)
    index, siblings, size = watched.index, np.arange(16), 500
    number = 0
    while watched.appended < TOKENS:
        index.open_group(number, [1, 2, 3])
        for offset in range(0, 4 * size, size):
            text = watched.append(np.full(16, number), siblings, offset, size)
            index.propose([number], [0], [8])
        number += 1
    assert index.counters["evicted_groups"] > number // 2
    assert index.num_tokens > 800_000
    assert all((group in index) == (group >= number - index.num_groups) for group in range(number))
    for _ in range(2):
        index.propose([], [], [])
    assert follows(index, number - 1, 99, text[7, -100:])


def test_ten_million_tokens_of_tiny_groups() -> None:
    """A hundred thousand groups, more than there is room for bookkeeping."""
    watched = Watched(max_bytes=16 * MIB, shared_bytes=2 * MIB)
    index, count = watched.index, 50
    for first in range(0, TOKENS // 100, count):
        groups = np.arange(first, first + count)
        for group in groups.tolist():
            index.open_group(group, [])
        text = watched.append(groups, groups, 0, 100)
        index.propose(groups, groups, np.full(count, 4))
    assert watched.appended == TOKENS
    assert index.counters["refused_tokens"] == 0
    assert follows(index, int(groups[-1]), -1, text[-1])


def test_ten_million_tokens_in_calls_of_a_million() -> None:
    """More than is made findable before it is evicted again."""
    watched = Watched(max_bytes=16 * MIB, shared_bytes=2 * MIB)
    watched.index.open_group(0, [1, 2, 3])
    for number in range(10):
        watched.append(np.zeros(4, np.int64), np.arange(4), number * 250_000, 250_000)
        assert watched.index.propose([0], [0], [8]).tokens.size <= 8
    assert watched.index.counters["evicted_tokens"] == 10_000_003 - watched.index.num_tokens


def test_groups_without_a_prompt_count() -> None:
    """Of 20,000 groups in one step, no more stay than bookkeeping has room for; the newest do."""
    index = SuffixIndex(vocab_size=10, max_bytes=4 * MIB, shared_bytes=0)
    for group in range(20_000):
        index.open_group(group, [])
        assert index.memory_bytes <= 4 * MIB
    assert 100 < index.num_groups < 2000
    assert all(group in index for group in range(20_000 - index.num_groups, 20_000))
    assert index.counters["evicted_groups"] == 20_000 - index.num_groups


def test_sequences_without_tokens_take_nothing() -> None:
    index = SuffixIndex(vocab_size=10)
    index.open_group(0, [])
    before = index.memory_bytes
    index.append(np.zeros(10_000, int), np.arange(10_000), np.zeros(10_000, int), [], np.zeros(10_000, int))
    assert index.memory_bytes == before


def test_time_to_live() -> None:
    """Steps without a call for the group; appending counts as one, and so does opening it again."""
    index = SuffixIndex(vocab_size=10, ttl_steps=3)
    for group in range(4):
        index.open_group(group, [1])
    for step in range(1, 6):
        index.propose([0], [0], [1])
        if step == 2:
            index.append([1], [0], [0], [1], [1])
            index.open_group(2, [1])
        assert [group in index for group in range(4)] == [True, step < 6, step < 6, step < 4]
    index.propose([0], [0], [1])
    assert [group in index for group in range(4)] == [True, False, False, False]
    assert index.counters["expired_groups"] == 3


def test_recently_used_groups_stay() -> None:
    index = SuffixIndex(vocab_size=10, max_tokens=1024, shared_bytes=0)
    for group in range(4):
        index.open_group(group, [1] * 200)
        index.propose([0], [0], [1])
    # Group 1 goes, group 2 loses its tokens.
    index.append([3], [0], [0], [2] * 600, [600])
    assert [group in index for group in range(4)] == [True, False, True, True]
    assert index.num_tokens == 1000
    assert np.diff(index.propose([0, 2], [0, 0], [4, 4]).starts).tolist() == [4, 0]


def test_dropped_text_goes_before_other_text() -> None:
    index = SuffixIndex(vocab_size=10, group_max_tokens=1024, group_max_bytes=64 << 10)
    index.open_group(0, [1] * 100)
    for sequence in range(40):
        index.append([0], [sequence], [0], [2] * 128, [128])
        index.drop_sequence(0, sequence)
    assert index.num_tokens == 100
    assert index.counters["evicted_tokens"] == 0


def test_memory_of_what_was_dropped_is_used_again() -> None:
    """However often; a leak would show after a few rounds."""
    index = SuffixIndex(vocab_size=1000, max_bytes=64 * MIB)
    tokens = np.random.default_rng(0).integers(0, 1000, 100_000).astype(np.int32)
    sizes = []
    for group in range(12):
        index.open_group(group, tokens[:100])
        index.append([group], [0], [0], tokens, [tokens.size])
        sizes.append(index.memory_bytes)
        (index.drop_group, index.drop_version, lambda _: index.clear())[group % 3](0 if group % 3 == 1 else group)
        assert (index.num_groups, index.num_tokens) == (0, 0)
        index.propose([], [], [])
    assert max(sizes) < 1.1 * sizes[0]
    assert not any(index.counters.values())
