"""A hypothesis state machine: any calls in any order leave index and naive index equal."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sglang_seer.draft import SuffixIndex
from tests.draft.naive_index import NaiveGroup, NaiveIndex, breadth_first

GROUPS = st.integers(-1, 2)
SEQUENCES = st.integers(0, 3)
TOKENS = st.lists(st.integers(0, 3), max_size=12)


class IndexMachine(RuleBasedStateMachine):
    @initialize(max_match=st.integers(1, 12))
    def make(self, max_match: int) -> None:
        self.index = SuffixIndex(vocab_size=4, max_match=max_match, max_candidates=4096)
        self.naive = NaiveIndex(max_match)

    def stored(self, group: int, sequence: int) -> list[int]:
        return self.naive.groups[group].responses.get(sequence, [])

    @rule(group=GROUPS, prompt=TOKENS)
    def open_group(self, group: int, prompt: list[int]) -> None:
        known = self.naive.groups.setdefault(group, NaiveGroup(prompt))
        if known.prompt == prompt:
            self.index.open_group(group, prompt)
        else:
            with pytest.raises(ValueError, match="prompt differs"):
                self.index.open_group(group, prompt)

    @precondition(lambda self: self.naive.groups)
    @rule(data=st.data(), items=st.lists(st.tuples(SEQUENCES, TOKENS), max_size=5))
    def append(self, data: st.DataObject, items: list[tuple[int, list[int]]]) -> None:
        """Continuations, repeats and overlaps, where what is stored may differ."""
        groups, sequences, offsets, tokens, lengths = [], [], [], [], []
        for sequence, new in items:
            group = data.draw(st.sampled_from(sorted(self.naive.groups)))
            # The reference applies items in order, so an item may start where an earlier one ends.
            offset = data.draw(st.integers(0, len(self.stored(group, sequence))))
            known = self.stored(group, sequence)[offset:]
            # Overlap within one call must agree; with earlier calls it need not, see conflict().
            text = known + new if data.draw(st.booleans()) else known[: len(new)]
            self.naive.append(group, sequence, offset, text)
            groups.append(group)
            sequences.append(sequence)
            offsets.append(offset)
            tokens.extend(text)
            lengths.append(len(text))
        self.index.append(groups, sequences, offsets, tokens, lengths)

    @precondition(lambda self: self.naive.groups)
    @rule(data=st.data(), sequence=SEQUENCES, tokens=TOKENS)
    def conflict(self, data: st.DataObject, sequence: int, tokens: list[int]) -> None:
        group = data.draw(st.sampled_from(sorted(self.naive.groups)))
        offset = data.draw(st.integers(0, len(self.stored(group, sequence))))
        self.naive.append(group, sequence, offset, tokens)
        self.index.append([group], [sequence], [offset], tokens, [len(tokens)])

    @precondition(lambda self: self.naive.groups)
    @rule(data=st.data(), sequence=SEQUENCES, gap=st.integers(1, 3), token=st.integers(0, 3))
    def gap(self, data: st.DataObject, sequence: int, gap: int, token: int) -> None:
        group = data.draw(st.sampled_from(sorted(self.naive.groups)))
        length = len(self.stored(group, sequence))
        with pytest.raises(ValueError, match=r"offsets\[1\]"):
            self.index.append([group, group], [sequence, sequence], [length, length + 1 + gap], [token] * 2, [1, 1])

    @rule(group=GROUPS, sequence=SEQUENCES)
    def drop_sequence(self, group: int, sequence: int) -> None:
        self.index.drop_sequence(group, sequence)
        if group in self.naive.groups:
            self.naive.groups[group].responses.pop(sequence, None)

    @rule(group=GROUPS)
    def drop_group(self, group: int) -> None:
        self.index.drop_group(group)
        self.naive.groups.pop(group, None)

    @rule()
    def clear(self) -> None:
        self.index.clear()
        self.naive.groups.clear()

    @rule(budget=st.integers(0, 10), max_depth=st.integers(1, 6))
    def propose(self, budget: int, max_depth: int) -> None:
        requests = [(group, sequence) for group in self.naive.groups for sequence in range(4)]
        groups, sequences = [g for g, _ in requests], [s for _, s in requests]
        proposal = self.index.propose(groups, sequences, [budget] * len(requests), max_depth)
        for i, (group, sequence) in enumerate(requests):
            here = slice(proposal.starts[i], proposal.starts[i + 1])
            wanted = breadth_first(self.naive.tree(group, sequence, budget, max_depth))
            assert proposal.tokens[here].tolist() == [node.token for node in wanted]
            assert proposal.parents[here].tolist() == [node.parent for node in wanted]
            assert proposal.depths[here].tolist() == [node.depth for node in wanted]
            assert proposal.probabilities[here].tolist() == [node.probability for node in wanted]

    @invariant()
    def same_content(self) -> None:
        groups = self.naive.groups
        assert self.index.num_groups == len(groups)
        assert self.index.num_tokens == sum(
            len(known.prompt) + sum(map(len, known.responses.values())) for known in groups.values()
        )
        for group in groups:
            for sequence in range(4):
                assert self.index.length(group, sequence) == len(self.stored(group, sequence))


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(deadline=None, max_examples=60, stateful_step_count=25)
