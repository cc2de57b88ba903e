"""Which orders of calls and items may not change a proposal."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_seer.draft import Proposal, SuffixIndex

GROUPS = 2
Item = tuple[int, int, int, list[int]]  # group, sequence, offset, tokens

# Two responses a group of few token ids: chains longer than the few candidates looked at below.
responses = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), min_size=2 * GROUPS, max_size=2 * GROUPS)


def opened(max_candidates: int) -> SuffixIndex:
    index = SuffixIndex(vocab_size=3, max_candidates=max_candidates)
    for group in range(GROUPS):
        index.open_group(group, [0, 1, 2, 1])
    return index


def append(index: SuffixIndex, items: list[Item]) -> None:
    index.append(
        [group for group, *_ in items],
        [sequence for _, sequence, *_ in items],
        [offset for _, _, offset, _ in items],
        [token for *_, tokens in items for token in tokens],
        [len(tokens) for *_, tokens in items],
    )


def drafts(index: SuffixIndex) -> list[list[float]]:
    groups, sequences = np.divmod(np.arange(3 * GROUPS), 3)
    proposal: Proposal = index.propose(groups, sequences, np.full(3 * GROUPS, 16))
    columns = (proposal.tokens, proposal.parents, proposal.depths, proposal.probabilities)
    return [column.tolist() for column in (*columns, proposal.starts)]


def cut(data: st.DataObject, texts: list[list[int]]) -> list[Item]:
    """The texts as items, each text in pieces that may overlap."""
    items: list[Item] = []
    for number, text in enumerate(texts):
        group, sequence = divmod(number, 2)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
        for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            start = data.draw(st.integers(max(0, begin - 2), begin))
            items.append((group, sequence, start, text[start:end]))
    return items


@settings(deadline=None)
@given(data=st.data(), texts=responses, max_candidates=st.integers(1, 4))
def test_order_within_a_call(data: st.DataObject, texts: list[list[int]], max_candidates: int) -> None:
    """Even where only the newest occurrences vote."""
    wanted, seen = opened(max_candidates), opened(max_candidates)
    append(wanted, [(*divmod(n, 2), 0, text) for n, text in enumerate(texts)])
    append(seen, data.draw(st.permutations(cut(data, texts))))
    assert drafts(seen) == drafts(wanted)


@settings(deadline=None)
@given(data=st.data(), texts=responses)
def test_order_of_calls_without_the_cap(data: st.DataObject, texts: list[list[int]]) -> None:
    """Where every occurrence votes, only content counts."""
    wanted, seen = opened(4096), opened(4096)
    append(wanted, [(*divmod(n, 2), 0, text) for n, text in enumerate(texts)])
    owners = [number for number, text in enumerate(texts) for _ in text]
    lengths = [0] * len(texts)
    for number in data.draw(st.permutations(owners)):
        group, sequence = divmod(number, 2)
        append(seen, [(group, sequence, lengths[number], [texts[number][lengths[number]]])])
        lengths[number] += 1
    assert drafts(seen) == drafts(wanted)


def test_the_newest_call_votes_first() -> None:
    """The order of calls does count where the cap cuts: this is what the guarantee leaves out."""
    seen = []
    for order in ((0, 1), (1, 0)):
        index = opened(1)
        for sequence in order:
            append(index, [(0, sequence, 0, [2, 2, sequence])])
        append(index, [(0, 5, 0, [2, 2])])
        proposal = index.propose([0], [5], [1])
        seen.append(proposal.tokens.tolist())
    assert seen == [[1], [0]]


@settings(deadline=None)
@given(texts=responses)
def test_dropped_sequences_leave_no_trace(texts: list[list[int]]) -> None:
    """Also not after the relinking that enough drops bring about."""
    wanted, seen = opened(4096), opened(4096)
    append(wanted, [(*divmod(n, 2), 0, text) for n, text in enumerate(texts)])
    for round_ in range(3):
        append(seen, [(*divmod(n, 2), 0, text) for n, text in enumerate(texts)])
        append(seen, [(group, 7 + round_, 0, [1, 2, 0] * 30) for group in range(GROUPS)])
        for group in range(GROUPS):
            seen.drop_sequence(group, 7 + round_)
            seen.drop_sequence(group, 0)
    append(seen, [(*divmod(n, 2), 0, text) for n, text in enumerate(texts)])
    assert drafts(seen) == drafts(wanted)
