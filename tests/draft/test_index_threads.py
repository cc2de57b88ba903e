"""Calls of several threads, and the GIL, which they release."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sglang_seer.draft import SuffixIndex


def test_threads_append_and_propose() -> None:
    """Every thread writes its own sequence of one group; nothing is lost. Without the mutex it crashes."""
    vocab_size, piece = 1000, 1000
    texts = [np.random.default_rng(n).integers(0, vocab_size, 40 * piece).astype(np.int32) for n in range(4)]

    def opened() -> SuffixIndex:
        index = SuffixIndex(vocab_size=vocab_size, max_candidates=256, shared_bytes=0)
        index.open_group(0, [1, 2, 3])
        return index

    index = opened()

    def write(sequence: int) -> None:
        text = texts[sequence]
        for offset in range(0, text.size, piece):
            index.append([0], [sequence], [offset], text[offset : offset + piece], [piece])
            proposal = index.propose([0] * 200, [sequence] * 200, [8] * 200)
            # Equal requests of one call see one state of the index.
            assert len(set(np.diff(proposal.starts).tolist())) == 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))

    alone = opened()
    alone.append([0] * 4, range(4), [0] * 4, np.concatenate(texts), [40 * piece] * 4)
    for i in (index, alone):
        # Until everything is findable.
        for _ in range(50):
            i.propose([], [], [])
    a, b = (i.propose([0] * 4, range(4), [32] * 4) for i in (index, alone))
    assert a.tokens.size > 0
    assert a.tokens.tolist() == b.tokens.tolist()
    assert a.probabilities.tolist() == b.probabilities.tolist()


def test_the_gil_is_released() -> None:
    """Another thread wakes up again and again during one long call; with the GIL held it could do so in no call."""
    index = SuffixIndex(vocab_size=10)
    index.open_group(0, np.random.default_rng(0).integers(0, 10, 1000).astype(np.int32))
    zeros, budgets = np.zeros(50_000, np.int64), np.full(50_000, 32, np.int32)
    count = 0
    stop = threading.Event()

    def work() -> None:
        nonlocal count
        while not stop.wait(0.001):
            count += 1

    thread = threading.Thread(target=work)
    thread.start()
    woken = 0
    deadline_s = time.monotonic() + 120.0
    try:
        # A call takes hundreds of milliseconds, but nothing says that the thread gets a core meanwhile.
        while woken < 5 and time.monotonic() < deadline_s:
            before = count
            index.propose(zeros, zeros, budgets)
            woken = count - before
    finally:
        stop.set()
        thread.join()
    # With the GIL held, the thread can wake up at most once before and once after a call.
    assert woken >= 5
