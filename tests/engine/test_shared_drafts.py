"""Two draft sources on one bus in one process: whose text goes where, and for how long; the index is the real one."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sglang_seer.draft import SuffixIndex
from sglang_seer.draft.bus import Pace, SharedText, deltas, share_text
from sglang_seer.engine import sharing
from sglang_seer.engine.drafts import DraftSource
from sglang_seer.engine.requests import RequestStates
from sglang_seer.engine.sharing import Lengths, Sharing
from sglang_seer.status import STATUS

VOCAB = 50
TIMEOUT_S = 120.0
_names = itertools.count()


def request(prompt: list[int], output: list[int], **hint: Any) -> Any:
    return SimpleNamespace(
        rid="r",
        origin_input_ids_unpadded=array("q", prompt),
        output_ids=array("q", output),
        sampling_params=SimpleNamespace(custom_params={"seer": hint} if hint else None, max_new_tokens=100),
    )


class Source:
    """A draft source, its index and its bus."""

    def __init__(self, url: str, **limits: int) -> None:
        pace = Pace(flush_s=0.0, wait_s=0.002)
        shared = share_text(url, version=1, vocab_size=VOCAB, pace=pace)
        assert shared is not None
        self.bus: SharedText = shared
        self.index = SuffixIndex(vocab_size=VOCAB, shared_bytes=0, **limits)
        states = RequestStates(0)
        self.sharing = Sharing(shared, self.index, states, version=1)
        self.drafts = DraftSource(states, self.index, vocab_size=VOCAB, sharing=self.sharing)
        self.lengths: list[int] = []
        self.version = 1

    def append(self, *requests: Any) -> None:
        self.drafts.append(requests, [()] * len(requests))

    def step(self) -> Lengths:
        found = self.drafts.receive(self.version)
        self.drafts.absorb()
        self.lengths += found[:, 1].tolist()
        return found

    def drafted(self, one: Any) -> list[int]:
        tokens: list[int] = self.drafts.propose([one], np.array([8], dtype=np.int32), 8, chain=False).tokens.tolist()
        return tokens

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline_s, "it did not happen"
            time.sleep(0.002)
            self.step()


@pytest.fixture
def pair() -> Iterator[tuple[Source, Source]]:
    url = f"inproc:drafts{next(_names)}"
    both = Source(url), Source(url)
    yield both
    for one in both:
        one.bus.close()


def test_siblings_elsewhere_draft_and_their_length_counts_once(pair: tuple[Source, Source]) -> None:
    here, there = pair
    done = request([1, 2], [7, 8, 9, 10])
    there.append(done)
    there.drafts.finish(done, 4, whole=True)
    young = request([1, 2], [7])
    here.drafts.enter([young])
    here.append(young)
    here.until(lambda: here.drafted(young)[:3] == [8, 9, 10])
    here.until(lambda: here.lengths == [4])
    # Fetched again, as after the group was left and came back.
    state = here.drafts.states.of(young)
    before = here.bus.status()["received_tokens"]
    here.bus.unsubscribe([state.index_group])
    here.bus.subscribe([state.index_group])
    here.until(lambda: here.bus.status()["received_tokens"] == before + 4)
    for _ in range(50):
        here.step()
        time.sleep(0.002)
    assert here.lengths == [4]


def test_a_chunk_that_ends_is_no_end_of_its_response(pair: tuple[Source, Source]) -> None:
    here, there = pair
    young = request([1, 2], [7])
    here.append(young)
    cut, ended = request([1, 2], [7, 8, 9]), request([1, 2], [5, 6])
    there.append(cut, ended)
    there.drafts.finish(cut, 3, whole=False)
    there.drafts.finish(ended, 2, whole=True)
    here.until(lambda: len(here.lengths) > 0)
    assert here.lengths == [2]


def test_a_response_that_moves_here_is_not_its_own_sibling(pair: tuple[Source, Source]) -> None:
    here, there = pair
    sibling = request([1, 2], [30], group="g", sample=0)
    here.append(sibling)
    there.append(request([1, 2], [7, 8, 9, 10], group="g", sample=3))
    group = here.drafts.states.of(sibling).index_id
    here.until(lambda: here.index.num_tokens == 2 + 1 + 4)
    moved = request([1, 2, 7, 8, 9, 10], [11], group="g", sample=3, prompt_len=2)
    here.append(moved)
    assert here.index.num_tokens == 2 + 1 + 5
    state = here.drafts.states.of(moved)
    assert here.index.length(group, state.index_sequence) == 5
    assert here.index.length(group, -1 - state.number) == 0


class Held:
    """The index of a sharing: it takes text from elsewhere only when it is let."""

    def __init__(self, source: Source) -> None:
        self.drop_sequence, self._append = source.index.drop_sequence, source.index.append
        self.begun, self.let = threading.Event(), threading.Event()
        source.sharing._index = self  # type: ignore[assignment]

    def append(self, *text: Any) -> None:
        self.begun.set()
        assert self.let.wait(TIMEOUT_S)
        self._append(*text)


class Waits(Sharing):
    def settle(self) -> None:
        held = self._index
        if isinstance(held, Held) and held.begun.is_set():
            held.let.set()
        super().settle()


class Hasty(Sharing):
    def settle(self) -> None:
        return


@pytest.mark.parametrize(("kind", "kept"), [(Waits, 0), (Hasty, 4)])
def test_a_response_moves_here_while_the_index_takes_its_text(
    pair: tuple[Source, Source], kind: type[Sharing], kept: int
) -> None:
    """A step does not wait for the index, a request that comes does; else it keeps its text as a sibling's."""
    here, _ = pair
    sibling = request([1, 2], [30], group="g", sample=0)
    here.append(sibling)
    held = Held(here)
    here.sharing.__class__ = kind
    state = here.drafts.states.of(sibling)
    moved = request([1, 2, 7, 8, 9, 10], [11], group="g", sample=3, prompt_len=2)
    here.sharing._in_hand = deltas([state.index_group], [RequestStates(0).of(moved).number], [0], [4], [7, 8, 9, 10])
    here.drafts.absorb()
    assert held.begun.wait(TIMEOUT_S)
    here.append(moved)
    held.let.set()
    here.sharing._writer.shutdown()
    state = here.drafts.states.of(moved)
    assert here.index.length(state.index_id, -1 - state.number) == kept
    assert here.index.length(state.index_id, state.index_sequence) == 5


@pytest.mark.parametrize("kind", [Waits, Hasty])
def test_text_from_elsewhere_closes_the_group_of_a_request(kind: type[Sharing]) -> None:
    """The request begins anew; who does not wait for the index takes a closed group for an open one."""
    here = Source(f"inproc:drafts{next(_names)}", max_tokens=1024)
    old, young = request([1, 2], [7]), request([3, 4], [7])
    here.append(old)
    here.append(young)
    held = Held(here)
    here.sharing.__class__ = kind
    state = here.drafts.states.of(young)
    here.sharing._in_hand = deltas([state.index_group], [5], [0], [1100], [number % VOCAB for number in range(1100)])
    here.drafts.absorb()
    assert held.begun.wait(TIMEOUT_S)

    class Late:
        """The index as the draft source sees it: the text from elsewhere comes just before own text."""

        def __getattr__(self, name: str) -> Any:
            return getattr(here.index, name)

        def __contains__(self, group: int) -> bool:
            return group in here.index

        def append(self, *text: Any) -> None:
            held.let.set()
            here.sharing._writer.shutdown()
            here.index.append(*text)

    here.drafts._index = Late()  # type: ignore[assignment]
    old.output_ids.append(8)
    if kind is Hasty:
        with pytest.raises(ValueError, match="open"):
            here.append(old)
    else:
        here.append(old)
        state = here.drafts.states.of(old)
        assert here.index.length(state.index_id, state.index_sequence) == 2
    here.bus.close()


def test_text_in_hand_of_a_group_that_is_left_is_dropped(pair: tuple[Source, Source]) -> None:
    here, _ = pair
    one, other = request([1, 2], [7]), request([3, 4], [7])
    here.append(one, other)
    states = [here.drafts.states.of(request) for request in (one, other)]
    here.sharing._in_hand = deltas([state.index_group for state in states], [5, 5], [0, 0], [2, 2], [7, 8, 7, 9])
    here.sharing._leave([states[0].index_group])
    here.drafts.absorb()
    here.sharing.settle()
    assert [here.index.length(state.index_id, -1 - 5) for state in states] == [0, 2]


def test_a_group_is_fetched_while_its_requests_live(pair: tuple[Source, Source]) -> None:
    here, there = pair
    young = request([1, 2], [7])
    here.append(young)
    assert here.bus.status()["groups"] == 1
    del young
    gc.collect()
    for _ in range(sharing.SWEEP_STEPS):
        here.step()
    assert here.bus.status()["groups"] == 0
    here.until(lambda: here.bus._carried_out == here.bus._given)
    there.append(request([1, 2], [7, 8, 9]))
    for _ in range(50):
        here.step()
        time.sleep(0.002)
    assert here.bus.status()["received_tokens"] == 0
    back = request([1, 2], [7])
    here.append(back)
    assert here.bus.status()["groups"] == 1
    here.until(lambda: here.drafted(back)[:2] == [8, 9])


def test_after_new_weights_old_text_is_gone_on_both_sides(pair: tuple[Source, Source]) -> None:
    here, there = pair
    young, old = request([1, 2], [7]), request([1, 2], [7, 8, 9])
    here.append(young)
    there.append(old)
    here.until(lambda: here.drafted(young)[:2] == [8, 9])
    for one in pair:
        one.version = 2
        one.drafts.clear(2)
    new = request([1, 2], [7])
    here.drafts.append([new], [()])
    there.until(lambda: there.bus.status()["history_tokens"] == 0)
    for _ in range(50):
        here.step()
        time.sleep(0.002)
    assert here.drafted(new) == []
    there.append(request([1, 2], [7, 5, 6]))
    here.until(lambda: here.drafted(new)[:2] == [5, 6])


def test_new_weights_without_a_flush_do_not_end_the_sharing(pair: tuple[Source, Source]) -> None:
    here, there = pair
    young = request([1, 2], [7])
    here.append(young)
    for one in pair:
        one.version = 2
        one.step()
    there.append(request([1, 2], [7, 8, 9]))
    here.until(lambda: here.drafted(young)[:2] == [8, 9])


def test_what_the_index_refuses_of_one_does_not_keep_out_another(pair: tuple[Source, Source]) -> None:
    here, _ = pair
    young = request([1, 2], [7])
    here.append(young)
    state = here.drafts.states.of(young)
    before = STATUS.counters["bus_refused"]
    text = deltas([state.index_group] * 2, [5, 6], [3, 0], [1, 3], [9, 7, 8, 9])  # the first one has a hole before it
    here.sharing._take_in(text)
    here.sharing.settle()
    assert STATUS.counters["bus_refused"] == before + 1
    assert here.drafted(young)[:2] == [8, 9]
