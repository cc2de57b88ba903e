"""The bytes of the bus: msgspec structs behind a protocol number and a checksum.

An envelope is one byte of protocol version, four of CRC-32, and the MessagePack body. Columns of numbers are byte
strings, little endian, in the narrowest width that the text needs: five to eight bytes a token, all in all.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from sglang_seer.draft.bus.deltas import Deltas

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROTOCOL = 2
MOST_FRAME_BYTES = 1 << 20
MOST_FRAME_TOKENS = 64 << 10
MOST_FRAME_ITEMS = 16 << 10
# A length shares its 16 bits with the flag of a finished response.
MOST_ITEM_TOKENS = 0x7FFF
_ENVELOPE_BYTES = 5


class Text(msgspec.Struct, array_like=True, tag="t", frozen=True):
    """Deltas of one engine, with the number of the frame on its link (0 where links count none).

    stamp_ms: when it was made, in milliseconds of the wall clock modulo 2**32; 0 where the transport knows.

    groups: 8 bytes each; group i has `counts[i]` items (2 bytes). requests: 4 bytes an item; offsets: 2 or 4; lengths:
    1 or 2, the highest bit says finished. tokens: 2, 3 or 4 bytes each. The lengths of the byte strings tell which.
    """

    version: int
    sender: int
    number: int
    stamp_ms: int
    groups: bytes
    counts: bytes
    requests: bytes
    offsets: bytes
    lengths: bytes
    tokens: bytes


class Interest(msgspec.Struct, array_like=True, tag="i", frozen=True):
    """Groups that a reader wants from now on, with the response tokens that it has; and groups that it wants no more.

    whole: forget what was asked before. number: counts the reader's Interest frames on this link.
    """

    version: int
    sender: int
    number: int
    whole: bool
    wanted: list[tuple[int, dict[int, int]]]
    unwanted: list[int]


class Beat(msgspec.Struct, array_like=True, tag="b", frozen=True):
    """Sent by a reader every so often, and answered: which frames were sent or seen so far."""

    version: int
    sender: int
    number: int
    interest: int


Frame = Text | Interest | Beat
_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


def stamp_ms(now_s: float) -> int:
    """A wall clock's time as it travels."""
    return int(now_s * 1e3) % (1 << 32)


def age_ms(stamp: int, now_s: float) -> int:
    """How old a stamp is; 0 where another host's clock is ahead."""
    age = (stamp_ms(now_s) - stamp) % (1 << 32)
    return age if age < 1 << 31 else 0


class BadFrame(ValueError):
    """A message that is dropped. `kind` is what it is counted as: corrupt, protocol or oversized."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def pack(frame: Frame) -> bytes:
    """A frame in its envelope."""
    body = _ENCODER.encode(frame)
    return PROTOCOL.to_bytes(1, "little") + zlib.crc32(body).to_bytes(4, "little") + body


def unpack(data: bytes) -> Frame:
    """The frame of an envelope. Raises BadFrame."""
    body = checked_protocol(data)
    if zlib.crc32(body) != int.from_bytes(data[1:_ENVELOPE_BYTES], "little"):
        raise BadFrame("corrupt", "the checksum is not that of the message")
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BadFrame("corrupt", f"message that cannot be decoded: {error}") from error


def checked_protocol(data: bytes) -> bytes:
    """The body of an envelope of this protocol. Raises BadFrame.

    The protocol is looked at before the checksum, which another one may count otherwise.
    """
    if len(data) > MOST_FRAME_BYTES:
        raise BadFrame("oversized", f"message of {len(data)} bytes, wanted at most {MOST_FRAME_BYTES}")
    if len(data) < _ENVELOPE_BYTES:
        raise BadFrame("corrupt", f"message of {len(data)} bytes, wanted at least {_ENVELOPE_BYTES}")
    if data[0] != PROTOCOL:
        raise BadFrame("protocol", f"message of bus protocol {data[0]}, this engine speaks {PROTOCOL}")
    return data[_ENVELOPE_BYTES:]


def text_frames(version: int, sender: int, deltas: Deltas, *, first: int = 0, stamp_ms: int = 0) -> Iterator[Text]:
    """The deltas in frames of bounded size, numbered from `first` on; smallest where items are ordered by group."""
    rest = _short_items(deltas)
    while len(rest):
        part, rest = rest.split(MOST_FRAME_TOKENS, MOST_FRAME_ITEMS)
        yield _text(version, sender, first, stamp_ms, part)
        first += 1


def _short_items(deltas: Deltas) -> Deltas:
    """Items longer than a length's 15 bits cut up; only catch-up has such."""
    if not len(deltas) or int(deltas.lengths.max()) <= MOST_ITEM_TOKENS:
        return deltas
    pieces = np.maximum(-(-deltas.lengths // MOST_ITEM_TOKENS), 1)
    place = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    left = np.repeat(deltas.lengths, pieces) - place * MOST_ITEM_TOKENS
    return Deltas(
        np.repeat(deltas.groups, pieces),
        np.repeat(deltas.requests, pieces),
        np.repeat(deltas.offsets, pieces) + place * MOST_ITEM_TOKENS,
        np.minimum(left, MOST_ITEM_TOKENS),
        np.repeat(deltas.finished, pieces) & (left <= MOST_ITEM_TOKENS),
        deltas.tokens,
    )


def group_texts(version: int, sender: int, deltas: Deltas) -> Iterator[tuple[int, Text]]:
    """(group, frame) of all groups, ordered by them; for buses with a place for each group. See `text_frames`."""
    if not len(deltas):
        return
    starts = np.flatnonzero(np.diff(deltas.groups, prepend=deltas.groups[:1] - 1))
    stops = np.append(starts[1:], len(deltas))
    ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(deltas.lengths)])
    sizes = ends[stops] - ends[starts]
    limits = ((deltas.lengths, MOST_ITEM_TOKENS), (sizes, MOST_FRAME_TOKENS), (stops - starts, MOST_FRAME_ITEMS))
    if any(int(column.max(initial=0)) > limit for column, limit in limits):
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            place = np.arange(len(deltas))
            for text in text_frames(version, sender, deltas.select((place >= start) & (place < stop))):
                yield int(deltas.groups[start]), text
        return
    # Columns are made once and cut, as there may be hundreds of groups.
    groups, requests = _bytes(deltas.groups[starts], "<i8"), _bytes(deltas.requests, "<u4")
    offsets, lengths, tokens = _offset_bytes(deltas), _length_bytes(deltas), _token_bytes(deltas.tokens)
    counts = _bytes(stops - starts, "<u2")
    wide, long = len(offsets) // len(deltas), len(lengths) // len(deltas)
    width = len(tokens) // max(len(deltas.tokens), 1)
    edges = np.stack([deltas.groups[starts], starts, stops, ends[starts], sizes], axis=1).tolist()
    for i, (group, start, stop, first, size) in enumerate(edges):
        yield (
            group,
            Text(
                version,
                sender,
                0,
                0,
                groups[8 * i : 8 * i + 8],
                counts[2 * i : 2 * i + 2],
                requests[4 * start : 4 * stop],
                offsets[wide * start : wide * stop],
                lengths[long * start : long * stop],
                tokens[width * first : width * (first + size)],
            ),
        )


def _text(version: int, sender: int, number: int, stamp_ms: int, deltas: Deltas) -> Text:
    starts = np.flatnonzero(np.diff(deltas.groups, prepend=deltas.groups[:1] - 1))
    counts = np.diff(starts, append=len(deltas))
    return Text(
        version,
        sender,
        number,
        stamp_ms,
        _bytes(deltas.groups[starts], "<i8"),
        _bytes(counts, "<u2"),
        _bytes(deltas.requests, "<u4"),
        _offset_bytes(deltas),
        _length_bytes(deltas),
        _token_bytes(deltas.tokens),
    )


def text_deltas(text: Text) -> Deltas:
    """The deltas of a frame. Raises BadFrame where its columns disagree."""
    groups, counts, requests = _numbers(text.groups, 8), _numbers(text.counts, 2), _numbers(text.requests, 4)
    items = len(requests)
    if len(groups) != len(counts) or int(counts.sum()) != items:
        raise BadFrame("corrupt", "message whose columns differ in length")
    wide, long = _width(text.offsets, items), _width(text.lengths, items)
    flagged = _numbers(text.lengths, long)
    finished = 1 << (8 * long - 1)
    lengths = flagged & (finished - 1)
    total = int(lengths.sum())
    width = _width(text.tokens, total)
    if wide not in (2, 4) or long not in (1, 2) or width not in (2, 3, 4):
        raise BadFrame("corrupt", f"message with columns of {wide}, {long} and {width} bytes")
    return Deltas(
        np.repeat(groups, counts),
        requests,
        _numbers(text.offsets, wide),
        lengths,
        flagged >= finished,
        _tokens(text.tokens, width),
    )


def many_deltas(texts: Sequence[Text]) -> Deltas:
    """The deltas of many small frames at once, each of one group and all in the same widths, as nearly all are.

    Raises BadFrame where that is not so, or where one of them is bad: then look at each by itself.
    """
    columns = ("groups", "counts", "requests", "offsets", "lengths", "tokens")
    joined = (b"".join([getattr(text, name) for text in texts]) for name in columns)
    whole = Text(texts[0].version, texts[0].sender, 0, 0, *joined)
    new = text_deltas(whole)
    items = [len(text.requests) // 4 for text in texts]
    wide, long = _width(whole.offsets, len(new)), _width(whole.lengths, len(new))
    totals = np.diff(np.cumsum(np.append(0, new.lengths))[np.cumsum([0, *items])])
    sizes = np.array([len(text.tokens) for text in texts])
    even = all(
        len(text.groups) == 8
        and text.counts == count.to_bytes(2, "little")
        and len(text.offsets) == wide * count
        and len(text.lengths) == long * count
        for text, count in zip(texts, items, strict=True)
    )
    if not even or not (sizes == totals * _width(whole.tokens, len(new.tokens))).all():
        raise BadFrame("corrupt", "messages of several forms")
    return new


def _bytes(values: NDArray[Any], kind: str) -> bytes:
    return values.astype(kind).tobytes()


def _numbers(data: bytes, size: int) -> NDArray[np.int64]:
    if size not in (1, 2, 4, 8) or len(data) % size:
        raise BadFrame("corrupt", f"message with a column of {len(data)} bytes, wanted a multiple of {size}")
    return np.frombuffer(data, {1: "<u1", 2: "<u2", 4: "<u4", 8: "<i8"}[size]).astype(np.int64)


def _width(data: bytes, count: int) -> int:
    """Bytes of each of so many numbers; any width will do where there are none."""
    if not count:
        return 0 if data else 2
    return len(data) // count if len(data) % count == 0 else 0


def _offset_bytes(deltas: Deltas) -> bytes:
    return _bytes(deltas.offsets, "<u2" if int(deltas.offsets.max(initial=0)) < 1 << 16 else "<u4")


def _length_bytes(deltas: Deltas) -> bytes:
    if int(deltas.lengths.max(initial=0)) < 1 << 7:
        return _bytes(deltas.lengths + (deltas.finished.astype(np.int64) << 7), "<u1")
    return _bytes(deltas.lengths + (deltas.finished.astype(np.int64) << 15), "<u2")


def _token_bytes(tokens: NDArray[np.int32]) -> bytes:
    most = int(tokens.max(initial=0))
    if most < 1 << 16:
        return _bytes(tokens, "<u2")
    whole = np.ascontiguousarray(tokens, dtype="<i4")
    if most < 1 << 24:
        return whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return whole.tobytes()


def _tokens(data: bytes, width: int) -> NDArray[np.int32]:
    if width == 3:
        padded = np.zeros((len(data) // 3, 4), dtype=np.uint8)
        padded[:, :3] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return padded.view("<i4").ravel().astype(np.int32, copy=False)
    return np.frombuffer(data, {2: "<u2", 4: "<i4"}[width]).astype(np.int32)
