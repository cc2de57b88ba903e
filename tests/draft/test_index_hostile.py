"""Text that is hard on hashes, and what usual text costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from sglang_seer.draft import SuffixIndex
from tests.draft.naive_index import NaiveIndex
from tests.draft.tree_check import check_tree, trees

Tokens = NDArray[np.int32]
VOCAB_SIZE = 150_000
MIB = 1 << 20


def fill(index: SuffixIndex, tokens: Tokens, group: int = 0) -> None:
    """As one response, in calls that make all they bring findable."""
    index.open_group(group, [])
    for offset in range(0, tokens.size, 4096):
        piece = tokens[offset : offset + 4096]
        index.append([group], [0], [offset], piece, [piece.size])


def siblings(random: np.random.Generator, count: int, length: int) -> list[Tokens]:
    """Responses that walk over the same phrases of Zipf-distributed tokens, with words of their own between."""
    phrases = [random.zipf(1.3, random.integers(2, 12)) % VOCAB_SIZE for _ in range(300)]
    texts = []
    for _ in range(count):
        pieces: list[NDArray[np.int64]] = []
        place = 0
        for novel in random.random(length // 2) < 0.3:
            pieces.append(phrases[place])
            if novel:
                pieces.append(random.zipf(1.3, random.integers(1, 6)) % VOCAB_SIZE)
            place = (place + int(random.geometric(0.5))) % len(phrases)
        texts.append(np.concatenate(pieces)[:length].astype(np.int32))
    return texts


def test_bytes_of_a_token() -> None:
    """A million tokens, all in all, with the table over all groups."""
    random = np.random.default_rng(0)
    index = SuffixIndex(vocab_size=VOCAB_SIZE)
    for group in range(16):
        index.open_group(group, [])
        texts = np.stack(siblings(random, 16, 4096))
        for offset in range(0, 4096, 256):
            piece = np.ascontiguousarray(texts[:, offset : offset + 256])
            index.append([group] * 16, range(16), [offset] * 16, piece.ravel(), [256] * 16)
    assert index.num_tokens == 16 * 16 * 4096 > 1_000_000
    assert not any(index.counters.values())
    print(f"{index.memory_bytes / index.num_tokens:.1f} bytes a token")
    assert index.memory_bytes < 40 * index.num_tokens


def equal(random: np.random.Generator) -> Tokens:
    return np.zeros(200_000, np.int32)


def two_kinds(random: np.random.Generator) -> Tokens:
    return random.integers(0, 2, 200_000).astype(np.int32)


def all_new(random: np.random.Generator) -> Tokens:
    return (np.arange(200_000) % VOCAB_SIZE).astype(np.int32)


def uniform(random: np.random.Generator) -> Tokens:
    return random.integers(0, VOCAB_SIZE, 200_000).astype(np.int32)


def de_bruijn(random: np.random.Generator) -> Tokens:
    """Every pair of 447 tokens once: each suffix of two is new, each of one is old."""
    first, second = np.divmod(np.arange(447 * 447), 447)
    # The pairs (a, b) and (b, a) for all a <= b, one after the other, walk along every edge but repeat few.
    upper = first <= second
    return np.stack([first[upper], second[upper]], axis=1).ravel().astype(np.int32)


SOURCES: list[Callable[[np.random.Generator], Tokens]] = [equal, two_kinds, all_new, uniform, de_bruijn]


@pytest.mark.parametrize("source", SOURCES)
def test_kinds_of_text(source: Callable[[np.random.Generator], Tokens]) -> None:
    tokens = source(np.random.default_rng(0))
    index = SuffixIndex(vocab_size=VOCAB_SIZE, shared_bytes=0)
    fill(index, tokens)
    assert index.num_tokens == tokens.size
    assert not any(index.counters.values())
    # 16 bytes a token, and three heads of 8 bytes in pages of which more than a third is full.
    assert index.memory_bytes < (16 + 3 * 8 * 3) * tokens.size + 4 * MIB
    # What follows the middle is drafted from the middle.
    index.append([0], [1], [0], tokens[100_000 - 8 : 100_000], [8])
    proposal = index.propose([0], [1], [8], chain=True)
    if source is not two_kinds:
        assert proposal.tokens.tolist() == tokens[100_000:100_008].tolist()


@pytest.mark.parametrize("source", SOURCES)
def test_kinds_of_text_at_the_limits(source: Callable[[np.random.Generator], Tokens]) -> None:
    tokens = source(np.random.default_rng(0))
    index = SuffixIndex(vocab_size=VOCAB_SIZE, max_bytes=4 * MIB, shared_bytes=MIB, group_max_bytes=256 << 10)
    fill(index, tokens)
    assert index.memory_bytes <= 4 * MIB
    assert index.counters["evicted_tokens"] == tokens.size - index.num_tokens
    # At least a quarter of the pages holds tokens; the rest is heads.
    assert index.num_tokens > (256 << 10) // 2048 * 128 // 4
    recent = tokens[-1000:]
    index.append([0], [1], [0], recent[:8], [8])
    proposal = index.propose([0], [1], [8], chain=True)
    if source is not two_kinds:
        assert proposal.tokens.tolist() == recent[8:16].tolist()


def hash_of_pairs(older: NDArray[np.uint64], newer: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The index's hash of a suffix of two tokens; see csrc/tokens.h."""
    with np.errstate(over="ignore"):
        newest: NDArray[np.uint64] = (newer + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        total: NDArray[np.uint64] = newest + (older + np.uint64(1)) * np.uint64(0xC2B2AE3D27D4EB4F)
        folded: NDArray[np.uint64] = np.bitwise_xor(total, np.right_shift(total, 32).astype(np.uint64)) * np.uint64(
            0xD6E8FEB86659FD93
        )
        return np.right_shift(folded, 32).astype(np.uint64)


def test_pairs_of_one_page() -> None:
    """Pairs of tokens whose hashes share 14 bits, so that no split of their page of 256 heads divides them."""
    random = np.random.default_rng(0)
    chosen = []
    for _ in range(16):
        pairs = random.integers(0, VOCAB_SIZE, (2, 1_000_000)).astype(np.uint64)
        chosen.append(pairs[:, hash_of_pairs(*pairs) >> np.uint64(18) == 5])
    hostile = np.concatenate(chosen, axis=1)
    assert 800 < hostile.shape[1] < 1200
    lost = []
    for pairs in (hostile, random.integers(0, VOCAB_SIZE, hostile.shape).astype(np.uint64)):
        index = SuffixIndex(vocab_size=VOCAB_SIZE, shared_bytes=0)
        tokens = pairs.T.ravel().astype(np.int32)
        fill(index, np.tile(tokens, 20))
        lost.append(index.counters["lost_heads"])
        assert index.num_tokens == 20 * tokens.size
        # Lost heads cost candidates, nothing else: here longer suffixes find the way.
        index.append([0], [1], [0], tokens[500:508], [8])
        assert index.propose([0], [1], [8], chain=True).tokens.tolist() == tokens[508:516].tolist()
        assert index.memory_bytes < 4 * MIB
    # The attack works, and usual pairs lose nothing.
    assert lost[0] > 0 == lost[1]


@pytest.mark.parametrize("older, newer", [(75254, 2700), (70506, 23260)])
def test_suffixes_of_one_and_two_tokens_with_one_hash(older: int, newer: int) -> None:
    """An occurrence votes once, although the two chains of its suffixes share their head."""
    pair = np.array([[older], [newer]], np.uint64)
    with np.errstate(over="ignore"):
        # As if the older token added nothing.
        alone = hash_of_pairs(np.array([2**64 - 1], np.uint64), pair[1])
    assert (hash_of_pairs(pair[0], pair[1]) == alone).all()
    index, naive = SuffixIndex(vocab_size=VOCAB_SIZE, shared_bytes=0), NaiveIndex(shared=False)
    index.open_group(0, [1])
    naive.open_group(0, [1])
    for sequence, following in enumerate(([5, older], [6], [5], [])):
        text = [older, newer, *following]
        index.append([0], [sequence], [0], text, [len(text)])
        naive.append([(0, sequence, 0, text)])
    (tree,) = trees(index.propose([0], [3], [8]))
    naive.begin_propose([0])
    check_tree(naive, 0, 3, 8, 16, False, tree)
