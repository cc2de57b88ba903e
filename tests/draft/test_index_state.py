"""A hypothesis state machine: any calls in any order leave index and naive index equal."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sglang_seer.draft import SuffixIndex
from sglang_seer.draft.index import MAX_BUDGET, MAX_DEPTH
from tests.draft.naive_index import NaiveIndex, Text
from tests.draft.tree_check import check_tree, trees

# So few groups, that no bucket of the shared table can overflow.
GROUPS = st.integers(-1, 2)
SEQUENCES = st.integers(0, 3)
VOCAB_SIZE = 4
TOKENS = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=12)
Item = tuple[int, int, int, list[int]]


def append(index: SuffixIndex, items: list[Item]) -> None:
    index.append(
        [group for group, *_ in items],
        [sequence for _, sequence, *_ in items],
        [offset for _, _, offset, _ in items],
        [token for *_, tokens in items for token in tokens],
        [len(tokens) for *_, tokens in items],
    )


class IndexMachine(RuleBasedStateMachine):
    @initialize(
        max_match=st.integers(4, 12),
        max_candidates=st.integers(1, 64) | st.just(256),
        ttl_steps=st.sampled_from([0, 1, 3]),
        shared=st.booleans(),
    )
    def make(self, max_match: int, max_candidates: int, ttl_steps: int, shared: bool) -> None:
        self.index = SuffixIndex(
            vocab_size=VOCAB_SIZE,
            max_match=max_match,
            max_candidates=max_candidates,
            ttl_steps=ttl_steps,
            max_bytes=64 << 20,
            shared_bytes=8 << 20 if shared else 0,
        )
        self.naive = NaiveIndex(max_match, max_candidates, ttl_steps, shared)
        # Something to start from: most rules need open groups.
        for group in (0, 1):
            self.open_group(group, [0, 1, 2, 1], group, 1 - group)
            items = [(group, sequence, 0, [3, 0, 1, 2, 1, group, sequence]) for sequence in range(2)]
            append(self.index, items)
            self.naive.append(items)

    def stored(self, group: int, sequence: int) -> list[int]:
        return self.naive.groups[group].responses.get(sequence, Text()).tokens

    def group(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.naive.groups)))

    @rule(group=GROUPS, prompt=TOKENS, version=st.integers(0, 1), memory=st.none() | GROUPS)
    def open_group(self, group: int, prompt: list[int], version: int, memory: int | None) -> None:
        known = self.naive.groups.get(group)
        if known is None:
            self.index.open_group(group, prompt, version=version, memory=memory)
            self.naive.open_group(group, prompt, version, memory)
        elif known.prompt.tokens == prompt:
            self.index.open_group(group, prompt, version=version, memory=memory)
            self.naive.touch(group)
        else:
            with pytest.raises(ValueError, match="prompt differs"):
                self.index.open_group(group, prompt)

    @precondition(lambda self: self.naive.groups)
    @rule(data=st.data(), texts=st.lists(st.tuples(SEQUENCES, TOKENS), max_size=5))
    def append(self, data: st.DataObject, texts: list[tuple[int, list[int]]]) -> None:
        """Each text in pieces that may overlap, repeat what is stored or arrive in any order."""
        items: list[Item] = []
        for sequence, new in dict(texts).items():
            group = self.group(data)
            known = self.stored(group, sequence)
            text = known + new
            cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=3)))
            for begin, end in zip([len(known), *cuts], [*cuts, len(text)], strict=True):
                start = data.draw(st.integers(max(0, begin - 2), begin))
                items.append((group, sequence, start, text[start : max(start, end)]))
            items += data.draw(st.lists(st.sampled_from(items[-1:]), max_size=1))
        append(self.index, data.draw(st.permutations(items)))
        self.naive.append(items)

    @precondition(lambda self: self.naive.groups)
    @rule(data=st.data(), sequence=SEQUENCES, tokens=TOKENS)
    def conflict(self, data: st.DataObject, sequence: int, tokens: list[int]) -> None:
        """What is stored stays, also where it differs."""
        group = self.group(data)
        offset = data.draw(st.integers(0, len(self.stored(group, sequence))))
        append(self.index, [(group, sequence, offset, tokens)])
        self.naive.append([(group, sequence, offset, tokens)])

    @precondition(lambda self: self.naive.groups)
    @rule(data=st.data(), sequence=SEQUENCES, gap=st.integers(1, 3), token=st.integers(0, 3))
    def gap(self, data: st.DataObject, sequence: int, gap: int, token: int) -> None:
        group = self.group(data)
        length = len(self.stored(group, sequence))
        with pytest.raises(ValueError, match=r"offsets\[1\]"):
            append(self.index, [(group, sequence, length, [token]), (group, sequence, length + 1 + gap, [token])])

    @rule(group=GROUPS, sequence=SEQUENCES)
    def drop_sequence(self, group: int, sequence: int) -> None:
        self.index.drop_sequence(group, sequence)
        self.naive.drop_sequence(group, sequence)

    @rule(group=GROUPS)
    def drop_group(self, group: int) -> None:
        self.index.drop_group(group)
        self.naive.drop_group(group)

    @rule(version=st.integers(0, 1))
    def drop_version(self, version: int) -> None:
        self.index.drop_version(version)
        self.naive.drop_version(version)

    @precondition(lambda self: len(self.naive.groups) > 2)
    @rule()
    def clear(self) -> None:
        self.index.clear()
        self.naive.clear()

    @rule(
        data=st.data(),
        max_depth=st.integers(1, 8) | st.just(MAX_DEPTH),
        chain=st.booleans(),
        learn=st.booleans(),
    )
    def propose(self, data: st.DataObject, max_depth: int, chain: bool, learn: bool) -> None:
        known = st.sampled_from(sorted(self.naive.groups) or [0])
        width = st.integers(0, 12) | st.just(MAX_BUDGET)
        most = 4 if self.naive.groups else 0
        requests = data.draw(st.lists(st.tuples(known, st.integers(0, 4), width), max_size=most))
        groups, sequences, budgets = zip(*requests, strict=True) if requests else ((), (), ())
        proposal = self.index.propose(groups, sequences, budgets, max_depth, chain=chain)
        self.naive.begin_propose(list(groups))
        for (group, sequence, budget), tree in zip(requests, trees(proposal), strict=True):
            check_tree(self.naive, group, sequence, budget, max_depth, chain, tree)
        if learn:
            size = proposal.tokens.size
            accepted = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
            self.index.observe(proposal, accepted)
            self.naive.observe(proposal, accepted)

    @invariant()
    def same_content(self) -> None:
        groups = self.naive.groups
        assert self.index.num_groups == len(groups)
        assert self.index.num_tokens == sum(known.num_tokens() for known in groups.values())
        for group in range(-1, 3):
            assert (group in self.index) == (group in groups)
        for group in groups:
            for sequence in range(4):
                assert self.index.length(group, sequence) == len(self.stored(group, sequence))
        lost = {name: count for name, count in self.index.counters.items() if name != "expired_groups"}
        assert not any(lost.values())
        assert self.index.counters["expired_groups"] == self.naive.expired


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(deadline=None, max_examples=200, stateful_step_count=40)
