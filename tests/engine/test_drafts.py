"""The draft source follows requests through flushes, drops and overlap; the index is the real one."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sglang_seer.draft import Proposal, SuffixIndex
from sglang_seer.engine.drafts import DraftSource, pending_tokens
from sglang_seer.engine.requests import RequestStates

VOCAB = 50


def request(number: int, prompt: list[int], output: list[int]) -> Any:
    """The attributes of SGLang's Req that the draft source reads."""
    return SimpleNamespace(
        rid=str(number),
        origin_input_ids_unpadded=array("q", prompt),
        output_ids=array("q", output),
        sampling_params=SimpleNamespace(custom_params=None, max_new_tokens=100),
    )


def source(*, memory: bool = False, **limits: int) -> DraftSource:
    """A draft source whose groups draft from their own text only."""
    index = SuffixIndex(vocab_size=VOCAB, shared_bytes=0, **limits)
    return DraftSource(RequestStates(0), index, vocab_size=VOCAB, memory=memory)


@pytest.fixture
def drafts() -> DraftSource:
    return source()


def drafted(drafts: DraftSource, *requests: Any) -> list[int]:
    """Tokens drafted for the last of the requests."""
    proposal = drafts.propose(requests, np.full(len(requests), 8, dtype=np.int32), 8, chain=False)
    return proposal.tokens[proposal.starts[-2] :].tolist()


def test_siblings_draft_and_others_do_not(drafts: DraftSource) -> None:
    done, young, stranger = request(1, [1, 2], [7, 8, 9, 10]), request(2, [1, 2], [7]), request(3, [1, 3], [7])
    drafts.append([done, young, stranger], [(), (), ()])
    assert drafted(drafts, young)[:3] == [8, 9, 10]
    assert drafted(drafts, stranger) == []


def test_after_a_flush_a_running_request_starts_anew_even_if_a_sibling_came_first(drafts: DraftSource) -> None:
    old = request(1, [1, 2], [7, 8, 9])
    drafts.append([old], [()])
    drafts.clear()
    new = request(2, [1, 2], [7])
    drafts.append([new], [()])  # opens the group again
    old.output_ids.extend([5, 6])
    drafts.append([old], [()])
    assert drafted(drafts, new)[:4] == [8, 9, 5, 6]


def test_a_group_that_expired_comes_back_with_all_its_tokens() -> None:
    drafts = source(ttl_steps=2)
    first, other = request(1, [1, 2], [7, 8, 9]), request(2, [3, 4], [5])
    drafts.append([first], [()])
    for _ in range(4):
        drafts.append([other], [()])
        drafted(drafts, other)
    assert drafts.status()["expired_groups"] == 1
    assert drafted(drafts, other, first) == []
    first.output_ids.append(10)
    drafts.append([first], [()])
    assert drafted(drafts, request(3, [1, 2], [])) == []  # not appended: no group
    young = request(4, [1, 2], [7])
    drafts.append([young], [()])
    assert drafted(drafts, young)[:3] == [8, 9, 10]


def test_memory_keeps_the_last_version_and_no_older_one() -> None:
    drafts = source(memory=True)
    drafts.append([request(1, [1, 2], [7, 8, 9])], [()])
    drafts.clear()
    second = request(2, [1, 2], [7])
    drafts.append([second], [()])
    assert drafted(drafts, second)[:2] == [8, 9]
    drafts.clear()
    drafts.append([second], [()])
    drafts.clear()
    third = request(3, [1, 2], [7])
    drafts.append([third], [()])
    assert drafted(drafts, third) == []


def test_without_memory_a_flush_forgets_all(drafts: DraftSource) -> None:
    drafts.append([request(1, [1, 2], [7, 8, 9])], [()])
    drafts.clear()
    second = request(2, [1, 2], [7])
    drafts.append([second], [()])
    assert drafted(drafts, second) == []


def test_the_text_of_an_aborted_request_goes(drafts: DraftSource) -> None:
    gone, young = request(1, [1, 2], [7, 8, 9, 10]), request(2, [1, 2], [7])
    drafts.append([gone, young], [(), ()])
    drafts.drop(gone)
    assert drafted(drafts, young) == []


def test_probabilities_learn_what_became_of_drafts(drafts: DraftSource) -> None:
    done, young = request(1, [1, 2], [7, 8, 9, 10]), request(2, [1, 2], [7])
    drafts.append([done, young], [(), ()])

    def draft() -> Proposal:
        return drafts.propose([young], np.array([4], dtype=np.int32), 4, chain=False)

    before = draft()
    for _ in range(200):
        drafts.observe(before, np.zeros(len(before.tokens), dtype=np.bool_))
    after = draft()
    assert after.tokens[0] == before.tokens[0]
    assert after.probabilities[0] < before.probabilities[0] / 2


def test_what_earlier_chunks_generated_belongs_to_the_response(drafts: DraftSource) -> None:
    whole = request(1, [1, 2], [7, 8, 9, 10])
    chunk = request(2, [1, 2, 7, 8], [])
    chunk.sampling_params.custom_params = {"seer": {"prompt_len": 2}}
    drafts.append([whole, chunk], [(), ()])
    assert drafted(drafts, chunk)[:2] == [9, 10]


def test_ids_outside_the_vocabulary_do_no_harm(drafts: DraftSource) -> None:
    hostile = request(1, [1, -5, 10**9], [3])
    drafts.append([hostile], [(VOCAB + 7, -1)])
    drafts.propose([hostile], np.array([8], dtype=np.int32), 8, chain=False)


def test_requests_that_generate_nothing_get_nothing(drafts: DraftSource) -> None:
    warm_up = request(1, [1, 2], [])
    warm_up.sampling_params.max_new_tokens = 0
    drafts.append([warm_up], [()])
    assert drafted(drafts, warm_up) == []


@pytest.mark.parametrize(
    ("outputs", "missing"),
    [
        (4, [8, 9]),  # the last result is still to be processed
        (6, []),  # another batch ran in between: it has been
    ],
)
def test_pending_tokens_are_those_that_output_ids_lack(outputs: int, missing: list[int]) -> None:
    # 10 input tokens, 6 sampled ones: the cache holds all but the newest.
    assert list(pending_tokens(15, 10, outputs, [8, 9])) == missing


def test_pending_tokens_refuse_a_gap() -> None:
    with pytest.raises(AssertionError):
        pending_tokens(20, 10, 4, [8, 9])
