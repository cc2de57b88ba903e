"""The bytes of the bus: what is packed is unpacked, and what was changed is refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_seer.draft.bus.deltas import Deltas, concatenate, deltas, stacked
from sglang_seer.draft.bus.pieces import pack_piece, place_of, unpack_piece
from sglang_seer.draft.bus.wire import (
    MOST_FRAME_BYTES,
    PROTOCOL,
    BadFrame,
    Text,
    group_texts,
    many_deltas,
    pack,
    text_deltas,
    text_frames,
    unpack,
)

ITEMS = st.lists(
    st.tuples(
        st.sampled_from([-(2**63), 0, 5]),
        st.sampled_from([0, 1, 2**32 - 1]),
        st.sampled_from([0, 7, 65_535, 65_536]),
        st.one_of(
            st.lists(st.sampled_from([0, 65_535, 65_536, 2**24, 2**31 - 1]), max_size=5),
            st.sampled_from([[1] * 127, [1] * 128, [2] * 40_000]),
        ),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def as_items(new: Deltas) -> list[tuple[int, int, int, list[int], bool]]:
    """Items, with pieces of one response joined as they were before they were cut to the limits of a frame."""
    joined: list[tuple[int, int, int, list[int], bool]] = []
    pieces = [piece.tolist() for piece in new.pieces()]
    for group, request, offset, piece, finished in zip(
        new.groups.tolist(), new.requests.tolist(), new.offsets.tolist(), pieces, new.finished.tolist(), strict=True
    ):
        last = joined[-1] if joined else None
        if last and last[:2] == (group, request) and last[2] + len(last[3]) == offset and len(last[3]) >= 32_767:
            joined[-1] = (*last[:3], last[3] + piece, finished)
        else:
            joined.append((group, request, offset, piece, finished))
    return joined


@settings(deadline=None)
@given(ITEMS)
def test_what_goes_in_comes_out(items: list[tuple[int, int, int, list[int], bool]]) -> None:
    new = stacked(items)
    frames = [unpack(pack(frame)) for frame in text_frames(3, 4, new, first=9)]
    assert [frame.number for frame in frames] == list(range(9, 9 + len(frames)))
    assert as_items(concatenate([text_deltas(frame) for frame in frames if isinstance(frame, Text)])) == items


@settings(deadline=None)
@given(ITEMS)
def test_many_at_once_are_as_one_by_one(items: list[tuple[int, int, int, list[int], bool]]) -> None:
    # Long ones are cut, see above.
    new = stacked([(*item[:3], item[3][:1000], item[4]) for item in items]).merged()
    frames = list(group_texts(3, 4, new))
    singly = concatenate([text_deltas(frame) for _, frame in frames])
    assert as_items(singly) == as_items(new)
    assert [group for group, frame in frames for _ in range(len(frame.requests) // 4)] == singly.groups.tolist()
    try:
        together = many_deltas([frame for _, frame in frames])
    except BadFrame:
        assert len({frame.tokens for _, frame in frames}) > 1  # of several forms
    else:
        assert as_items(together) == as_items(singly)


@settings(deadline=None)
@given(st.data())
def test_no_change_passes(data: st.DataObject) -> None:
    (frame,) = text_frames(3, 4, stacked([(1, 2, 3, [4, 5], False)]))
    packed = bytearray(pack(frame))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadFrame):
        unpack(bytes(packed))


@pytest.mark.parametrize("column", ["groups", "counts", "requests", "offsets", "lengths", "tokens"])
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_columns_that_disagree_are_refused(column: str, change: object) -> None:
    (frame,) = text_frames(3, 4, stacked([(1, 2, 3, [4, 5, 6], False), (1, 3, 3, [4], True)]))
    wrong = msgspec.structs.replace(frame, **{column: change(getattr(frame, column))})  # type: ignore[operator]
    with pytest.raises(BadFrame):
        text_deltas(wrong)
    with pytest.raises(BadFrame):
        many_deltas([frame, wrong])


def test_what_is_too_long_and_what_is_of_another_protocol_is_named() -> None:
    with pytest.raises(BadFrame, match="wanted at most") as error:
        unpack(b"x" * (MOST_FRAME_BYTES + 1))
    assert error.value.kind == "oversized"
    (frame,) = text_frames(3, 4, stacked([(1, 2, 3, [4], False)]))
    with pytest.raises(BadFrame, match=f"protocol 77, this engine speaks {PROTOCOL}") as error:
        unpack(b"\x4d" + pack(frame)[1:])
    assert error.value.kind == "protocol"


@pytest.mark.parametrize(
    ("field", "value"),
    [("requests", [-1]), ("requests", [2**32]), ("offsets", [-1]), ("lengths", [-1]), ("tokens", [-5]), ("tokens", [])],
)
def test_deltas_name_the_field_that_is_wrong(field: str, value: list[int]) -> None:
    right = {"groups": [1], "requests": [2], "offsets": [3], "lengths": [1], "tokens": [4]}
    with pytest.raises(ValueError, match=field):
        deltas(**{**right, field: value})
    assert deltas(**right).tokens.tolist() == [4]


def test_merged_joins_what_continues() -> None:
    new = stacked([(1, 2, 0, [1], False), (1, 3, 0, [9], False), (1, 2, 1, [2], True), (1, 2, 5, [6], False)])
    assert as_items(new.merged()) == [(1, 2, 0, [1, 2], True), (1, 2, 5, [6], False), (1, 3, 0, [9], False)]
    assert np.array_equal(new.merged().ends, [2, 6, 1])


def of_group(group: int) -> bytes:
    return group.to_bytes(8, "little", signed=True)


@settings(deadline=None)
@given(ITEMS)
def test_a_piece_is_the_frame_of_its_place(items: list[tuple[int, int, int, list[int], bool]]) -> None:
    for group, frame in group_texts(3, 4, stacked(items).merged()):
        packed = pack_piece(frame)
        seen = unpack_piece(packed, 3, of_group(group), place_of(3, of_group(group)))
        # Frames of a long text are numbered, for links.
        assert seen == msgspec.structs.replace(frame, number=0)
        assert len(packed) < len(pack(frame))


def test_a_piece_of_few_tokens_is_small() -> None:
    """An engine with one request of a group writes five tokens of a large vocabulary at a time."""
    ((_, frame),) = group_texts(-(2**63), 2**31 - 1, stacked([(5, 2**32 - 1, 9, [99_999] * 5, False)]))
    assert len(pack_piece(frame)) <= 8 * 5


@settings(deadline=None)
@given(st.data())
def test_a_piece_that_was_changed_or_put_elsewhere_is_refused(data: st.DataObject) -> None:
    ((_, frame),) = group_texts(3, 4, stacked([(1, 2, 3, [4, 5], False)]))
    packed = bytearray(pack_piece(frame))
    for version, group in ((3, 2), (4, 1)):
        with pytest.raises(BadFrame) as error:
            unpack_piece(bytes(packed), version, of_group(group), place_of(version, of_group(group)))
        assert error.value.kind == "corrupt"
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadFrame):
        unpack_piece(bytes(packed), 3, of_group(1), place_of(3, of_group(1)))


@pytest.mark.parametrize(
    ("widths", "items", "columns"), [(12, 1, 9), (-1, 1, 9), (0, 0, 9), (0, 2, 9), (0, 1 << 16, 9), (0, 1, 6)]
)
def test_a_piece_that_is_no_text_is_refused(widths: int, items: int, columns: int) -> None:
    """With a right checksum, as a peer could make it on purpose."""
    import zlib

    from sglang_seer.draft.bus.pieces import Piece

    group = of_group(1)
    body = msgspec.msgpack.encode(Piece(4, widths, items, b"\0" * columns))
    check = zlib.crc32(body, place_of(3, group)).to_bytes(4, "little")
    with pytest.raises(BadFrame, match="items"):
        unpack_piece(bytes([PROTOCOL]) + check + body, 3, group, place_of(3, group))


def test_a_piece_of_another_protocol_is_named() -> None:
    ((_, frame),) = group_texts(3, 4, stacked([(1, 2, 3, [4, 5], False)]))
    with pytest.raises(BadFrame, match="protocol 1, this engine speaks") as error:
        unpack_piece(b"\x01" + pack_piece(frame)[1:], 3, of_group(1), place_of(3, of_group(1)))
    assert error.value.kind == "protocol"
