"""Cut anywhere, a response ends where SGLang's rule ends it uncut; on a tokenizer whose tokens are bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_seer.rollout.exact import plan
from sglang_seer.rollout.seams import Seams, Stop
from sglang_seer.rollout.stream import FinishReason, Part
from sglang_seer.rollout.verdict import judge


class Bytes:
    """Token = byte; 256 is special."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        text = "".join("<end>" if one == 256 else chr(one + 0xE000) for one in ids)
        if options.get("skip_special_tokens", True):
            text = text.replace("<end>", "")
        return bytes(ord(one) - 0xE000 for one in text).decode(errors="replace")

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        raise NotImplementedError


SEAMS = Seams(Bytes())


def engine(stops: tuple[str, ...], output_ids: Sequence[int]) -> Stop | None:
    """SGLang's own look at one request: after each token the last ones, as many as the longest stop has, and one."""
    window = 1 + max(len(stop.encode()) for stop in stops)
    for length in range(1, len(output_ids) + 1):
        text = Bytes().decode(output_ids[max(0, length - window) : length])
        for stop in stops:
            if stop in text:
                return Stop(length, stop)
    return None


def in_chunks(stops: tuple[str, ...], output_ids: Sequence[int], cuts: Sequence[int], seams: Seams) -> Stop | None:
    """A chunk after the other, each on an engine that sees its own tokens; judged as the controller does."""
    its_plan = plan({"max_new_tokens": len(output_ids) + 1, "stop": list(stops)}, tokenizer=True)
    before: list[int] = []
    for end in [*sorted(set(cuts)), len(output_ids)]:
        chunk = output_ids[len(before) : end]
        if not chunk:
            continue
        stop = engine(stops, chunk)
        finish = FinishReason("stop", stop.matched) if stop else FinishReason("length")
        part = Part(output_ids=list(chunk[: stop.length] if stop else chunk), logprobs=None, finish=finish)
        asked = len(part.output_ids)
        verdict = judge(its_plan, before, part, asked=asked, broken=None, seams=seams, eos=frozenset())
        before += verdict.output_ids
        if verdict.finish_reason == "stop":
            assert verdict.matched is not None
            return Stop(len(before), verdict.matched)
    return None


TEXTS = st.text("ab\u00e9\u2764", min_size=1, max_size=12)


@given(
    text=TEXTS,
    stops=st.lists(st.text("ab\u00e9", min_size=1, max_size=4), min_size=1, max_size=3, unique=True),
    data=st.data(),
)
def test_a_cut_response_ends_where_the_whole_one_does(text: str, stops: list[str], data: st.DataObject) -> None:
    output_ids = list(text.encode())
    cuts = data.draw(st.lists(st.integers(1, len(output_ids)), max_size=4))
    assert in_chunks(tuple(stops), output_ids, cuts, SEAMS) == engine(tuple(stops), output_ids)


class Blind(Seams):
    def stop_over_seam(self, stops: tuple[str, ...], output_ids: Sequence[int], seam: int) -> Stop | None:
        return None


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_stop_over_a_seam_is_only_found_by_looking_there(cut: int) -> None:
    """Negative control: each chunk alone holds no stop. The heart's three bytes are on both sides, too."""
    output_ids, stops = list("xé❤y".encode()), ("é❤",)
    whole = engine(stops, output_ids)
    assert whole == Stop(6, "é❤")
    assert in_chunks(stops, output_ids, [cut], SEAMS) == whole
    if 1 < cut < 6:
        assert in_chunks(stops, output_ids, [cut], Blind(Bytes())) is None


def test_before_a_seam_there_is_nothing_to_find() -> None:
    assert SEAMS.stop_over_seam(("a",), [97, 97], 0) is None
    assert SEAMS.stop_over_seam((), [97, 97], 1) is None
    # What lies before the seam's window was looked at by the engine of that chunk.
    assert SEAMS.stop_over_seam(("ab",), list(b"abxxxxy"), 6) is None


def test_characters_of_several_tokens_are_whole_in_the_text() -> None:
    its_plan = plan({"max_new_tokens": 9}, tokenizer=True)
    heart = list("é❤".encode())
    assert SEAMS.text(list(b"prompt"), heart, its_plan, None) == "é❤"
    # Torn at the limit, as the engine's detokenizer writes it.
    assert SEAMS.text(list(b"prompt"), heart[:-1], its_plan, None) == "é\ufffd"


@pytest.mark.parametrize(
    ("sampling", "tokens", "matched", "wanted"),
    [
        ({}, b"one two", "two", "one "),
        ({"no_stop_trim": True}, b"one two3", "two", "one two"),
        ({}, b"one two", "three", "one two"),
        ({}, b"one.", 46, "one"),
        ({"no_stop_trim": True}, b"one.", 46, "one."),
        ({}, b"one", 46, "one"),
    ],
)
def test_a_matched_stop_is_cut_off(sampling: dict[str, Any], tokens: bytes, matched: str | int, wanted: str) -> None:
    its_plan = plan({"max_new_tokens": 99, **sampling}, tokenizer=True)
    assert SEAMS.text(list(b"p"), list(tokens), its_plan, matched) == wanted
