"""Which orders of calls and items may not change a proposal."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_seer.draft import Proposal, SuffixIndex

GROUPS = 2
Item = tuple[int, int, int, list[int]]  # group, sequence, offset, tokens

# Two responses a group of few token ids: chains longer than the few candidates looked at below.
responses = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), min_size=2 * GROUPS, max_size=2 * GROUPS)


def opened(max_candidates: int, shared_bytes: int = 8 << 20) -> SuffixIndex:
    index = SuffixIndex(vocab_size=3, max_candidates=max_candidates, shared_bytes=shared_bytes)
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


def columns(proposal: Proposal) -> list[list[float]]:
    arrays = (proposal.tokens, proposal.parents, proposal.depths, proposal.probabilities, proposal.evidence)
    return [column.tolist() for column in (*arrays, proposal.starts)]


def drafts(index: SuffixIndex) -> list[list[float]]:
    groups, sequences = np.divmod(np.arange(3 * GROUPS), 3)
    return columns(index.propose(groups, sequences, np.full(3 * GROUPS, 16)))


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


@pytest.mark.parametrize("max_candidates", [4, 16])
def test_order_within_a_call_that_links_later(max_candidates: int) -> None:
    """More tokens than one call makes findable: also the order in which the rest follows is that of the content."""
    random = np.random.default_rng(0)
    texts = {(g, s): random.integers(0, 3, 700).tolist() for g in range(GROUPS) for s in range(6)}
    whole = [(group, sequence, 0, text) for (group, sequence), text in texts.items()]
    cuts = [0, 128, 130, 500, 700]
    pieces = [(g, s, a, t[a:b]) for g, s, _, t in whole for a, b in itertools.pairwise(cuts)]
    random.shuffle(pieces)
    wanted, seen = opened(max_candidates), opened(max_candidates)
    append(wanted, whole)
    append(seen, pieces)
    for _ in range(4):
        assert drafts(seen) == drafts(wanted)


@settings(deadline=None)
@given(texts=responses, order=st.permutations(range(3 * GROUPS)))
def test_order_of_requests(texts: list[list[int]], order: list[int]) -> None:
    index = opened(4)
    append(index, [(*divmod(n, 2), 0, text) for n, text in enumerate(texts)])
    groups, sequences = np.divmod(np.arange(3 * GROUPS), 3)
    plain = index.propose(groups, sequences, np.full(3 * GROUPS, 16))
    mixed = index.propose(groups[order], sequences[order], np.full(3 * GROUPS, 16))
    for place, request in enumerate(order):
        here = slice(*mixed.starts[place : place + 2])
        there = slice(*plain.starts[request : request + 2])
        for a, b in zip(columns(mixed)[:-1], columns(plain)[:-1], strict=True):
            assert a[here] == b[there]


@settings(deadline=None)
@given(texts=responses)
def test_dropped_sequences_leave_no_trace(texts: list[list[int]]) -> None:
    """In the own group, however often a sequence is dropped and written again."""
    wanted, seen = opened(256, shared_bytes=0), opened(256, shared_bytes=0)
    append(wanted, [(*divmod(n, 2), 0, text) for n, text in enumerate(texts)])
    for round_ in range(3):
        append(seen, [(*divmod(n, 2), 0, text) for n, text in enumerate(texts)])
        append(seen, [(group, 7 + round_, 0, [1, 2, 0] * 3) for group in range(GROUPS)])
        for group in range(GROUPS):
            seen.drop_sequence(group, 7 + round_)
            seen.drop_sequence(group, 0)
    append(seen, [(group, 0, 0, texts[2 * group]) for group in range(GROUPS)])
    assert drafts(seen) == drafts(wanted)


def large_batch(threads: int) -> str:
    """A digest of the proposals of a few steps with 300 requests."""
    random = np.random.default_rng(1)
    index = SuffixIndex(vocab_size=40, threads=threads)
    groups, sequences = np.divmod(np.arange(300), 10)
    for group in range(30):
        index.open_group(group, random.integers(0, 40, 20))
    digest = hashlib.sha256()
    for step in range(12):
        lengths = np.full(300, 9)
        index.append(groups, sequences, lengths * step, random.integers(0, 40, 2700), lengths)
        proposal = index.propose(groups, sequences, random.integers(0, 65, 300), 12, chain=step % 3 == 0)
        index.observe(proposal, random.random(proposal.tokens.size) < proposal.probabilities)
        for name in ("tokens", "parents", "probabilities", "depths", "evidence", "starts"):
            digest.update(getattr(proposal, name).tobytes())
    return digest.hexdigest()


def test_number_of_threads() -> None:
    assert len({large_batch(threads) for threads in (1, 2, 3, 4, 16)}) == 1


def test_processes() -> None:
    """Two processes whose fresh memory holds different bytes: nothing is read before it was written."""
    code = "from tests.draft.test_index_determinism import large_batch; print(large_batch(2))"
    digests = []
    for number in ("1", "170"):
        path = os.pathsep.join(sys.path)
        environment = {**os.environ, "MALLOC_PERTURB_": number, "PYTHONHASHSEED": number, "PYTHONPATH": path}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        digests.append(run.stdout.strip())
    assert digests == [large_batch(2)] * 2
