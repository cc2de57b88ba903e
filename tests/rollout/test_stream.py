"""Events of a stream, whole and repeated, new tokens only, torn, and of any garbage."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from sglang_seer.rollout.stream import EventReader, GarbageError, Part, RefusedError

MOST = 6


def event(tokens: list[int], *, total: int | None = None, finish: Any = None, **meta: Any) -> bytes:
    """As SGLang writes it; characters as they are, not escaped."""
    total = len(tokens) if total is None else total
    known = {"finish_reason": finish, "completion_tokens": total, "id": "r", **meta}
    return b"data: " + json.dumps({"output_ids": tokens, "meta_info": known}, ensure_ascii=False).encode() + b"\n\n"


STOPPED = {"type": "stop", "matched": "é❤"}
REPEATED = [
    event([5, 6], cached_tokens=3),
    event([5, 6, 7, 8], cached_tokens=3),
    event([5, 6, 7, 8, 9], finish=STOPPED, cached_tokens=3, weight_version="v", spec_verify_ct=2, num_retractions=1),
    b"data: [DONE]\n\n",
]
NEW_ONLY = [
    event([5, 6], total=2, cached_tokens=3),
    event([7, 8], total=4, cached_tokens=3),
    event([9], total=5, finish=STOPPED, cached_tokens=3, weight_version="v", spec_verify_ct=2, num_retractions=1),
    b"data: [DONE]\n\n",
]


def read(data: list[bytes], *, incremental: bool = False, logprobs: bool = False, most: int = MOST) -> Part | None:
    reader = EventReader(incremental=incremental, most=most, logprobs=logprobs)
    for piece in data:
        reader.feed(piece)
    return reader.part()


@pytest.mark.parametrize(("events", "incremental"), [(REPEATED, False), (NEW_ONLY, True)])
def test_streams_may_be_cut_anywhere(events: list[bytes], incremental: bool) -> None:
    """Also inside a character of several bytes."""
    data = b"".join(events)
    for cut in range(len(data) + 1):
        part = read([data[:cut], data[cut:]], incremental=incremental)
        assert part is not None and part.finish is not None
        assert list(part.output_ids) == [5, 6, 7, 8, 9]
        assert (part.finish.type, part.finish.matched) == ("stop", "é❤")
        assert (part.cached_tokens, part.weight_version, part.verify_steps, part.retractions) == (3, "v", 2, 1)
        assert part.logprobs is None


@pytest.mark.parametrize(("events", "incremental"), [(REPEATED, False), (NEW_ONLY, True)])
def test_of_a_torn_stream_the_whole_events_count(events: list[bytes], incremental: bool) -> None:
    data, seen = b"".join(events), set()
    ends = [len(b"".join(events[: count + 1])) for count in range(3)]
    for cut in range(len(data)):
        part = read([data[:cut]], incremental=incremental)
        whole = sum(end <= cut for end in ends)
        assert (part is None) == (whole == 0)
        if part is not None:
            assert len(part.output_ids) == (2, 4, 5)[whole - 1]
            assert (part.finish is None) == (whole < 3)
        seen.add(whole)
    assert seen == {0, 1, 2, 3}


def test_a_stream_that_is_read_the_other_way_is_found_out() -> None:
    """Negative control: whether events repeat is not guessed, and not taken on trust."""
    with pytest.raises(GarbageError, match="saw 1 output_ids, completion_tokens 5"):
        read(NEW_ONLY, incremental=False)
    with pytest.raises(GarbageError, match="saw 11 output_ids, completion_tokens 5"):
        read(REPEATED, incremental=True, most=20)


def test_log_probabilities_and_their_missing_numbers() -> None:
    pairs = [[-0.5, 5, None], [None, 6, "é"]]
    part = read([event([5, 6], output_token_logprobs=pairs)], logprobs=True)
    assert part is not None and part.logprobs is not None
    assert part.logprobs[0] == -0.5 and math.isnan(part.logprobs[1])
    # Not asked for, not looked at.
    assert read([event([5, 6], output_token_logprobs=[])]) is not None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"event: x\n\n", "wanted an event"),
        (b"data: {\n\n", "saw b'{'"),
        (b'data: {"output_ids": ["a"], "meta_info": {"finish_reason": null}}\n\n', "Expected `int`"),
        (b'data: {"output_ids": [1.5], "meta_info": {"finish_reason": null}}\n\n', "Expected `int`"),
        (b'data: {"output_ids": [1], "meta_info": {"finish_reason": "stop"}}\n\n', "finish_reason"),
        (b'data: {"output_ids": [1], "meta_info": {}}\n\n', "finish_reason"),
        (b'data: {"text": "\xff\xfe", "output_ids": [], "meta_info": {"finish_reason": null}}\n\n', None),
        (b'data: {"output_ids": null, "meta_info": null}\n\n', "without output_ids or meta_info"),
        (b"data: []\n\n", "Expected `object`"),
        (event([3, -1]), ">= 0"),
        (event([1, 2], total=3), "saw 2 output_ids, completion_tokens 3"),
        (event([1] * 7), "saw 7 output_ids, asked for at most 6"),
    ],
)
def test_what_is_no_answer_is_told(data: bytes, said: str | None) -> None:
    if said is None:
        # A text that nobody reads may be anything; without the rest of the event it is a stream that broke off.
        assert read([data]) is not None
        return
    with pytest.raises(GarbageError, match=said):
        read([data])


@pytest.mark.parametrize("pairs", [None, [], [[-0.5, 5, None]], [[-0.5, 5, None], [-0.5, 7, None]]])
def test_log_probabilities_of_other_tokens_are_garbage(pairs: Any) -> None:
    with pytest.raises(GarbageError, match="log-probabilities of"):
        read([event([5, 6], output_token_logprobs=pairs)], logprobs=True)


def test_the_first_thing_wrong_is_what_is_told() -> None:
    with pytest.raises(GarbageError, match="nonsense"):
        read([b"nonsense\n\n", *REPEATED])


@pytest.mark.parametrize(("code", "wanted"), [(503, 503), (None, 400), ("x", 400)])
def test_an_error_in_the_stream_is_a_refusal(code: Any, wanted: int) -> None:
    body = json.dumps({"error": {"message": "zu lang é", "code": code}}, ensure_ascii=False).encode()
    with pytest.raises(RefusedError, match="zu lang é") as caught:
        read([b"data: " + body + b"\n\n"])
    assert caught.value.code == wanted
