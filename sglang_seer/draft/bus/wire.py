"""The bytes of the bus: msgspec structs behind a protocol number and a checksum.

An envelope is one byte of protocol version, four of CRC-32, and the MessagePack body. Columns of numbers are byte
strings, little endian, in the narrowest width that the text needs: five to eight bytes a token, all in all.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from sglang_seer.draft.bus.deltas import Deltas

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROTOCOL = 1
MOST_FRAME_BYTES = 1 << 20
MOST_FRAME_TOKENS = 64 << 10
MOST_FRAME_ITEMS = 16 << 10
# A length shares its 16 bits with the flag of a finished response.
MOST_ITEM_TOKENS = 0x7FFF
_FINISHED = 0x8000
_ENVELOPE_BYTES = 5


class Text(msgspec.Struct, array_like=True, tag="t", frozen=True):
    """Deltas of one engine, with the number of the frame on its link (0 where links count none).

    stamp_ms: when it was made, in milliseconds of the wall clock modulo 2**32; 0 where the transport knows.

    groups: 8 bytes each; group i has `counts[i]` items (2 bytes). requests: 4 bytes an item; offsets: 4; lengths: 2,
    the highest bit says finished. tokens: 2, 3 or 4 bytes each, whichever the byte string's length gives.
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
    if len(data) > MOST_FRAME_BYTES:
        raise BadFrame("oversized", f"message of {len(data)} bytes, wanted at most {MOST_FRAME_BYTES}")
    if len(data) < _ENVELOPE_BYTES:
        raise BadFrame("corrupt", f"message of {len(data)} bytes, wanted at least {_ENVELOPE_BYTES}")
    body = data[_ENVELOPE_BYTES:]
    if zlib.crc32(body) != int.from_bytes(data[1:_ENVELOPE_BYTES], "little"):
        raise BadFrame("corrupt", "the checksum is not that of the message")
    if data[0] != PROTOCOL:
        raise BadFrame("protocol", f"message of bus protocol {data[0]}, this engine speaks {PROTOCOL}")
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BadFrame("corrupt", f"message that cannot be decoded: {error}") from error


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
        _bytes(deltas.offsets, "<u4"),
        _bytes(deltas.lengths + _FINISHED * deltas.finished, "<u2"),
        _token_bytes(deltas.tokens),
    )


def text_deltas(text: Text) -> Deltas:
    """The deltas of a frame. Raises BadFrame where its columns disagree."""
    groups, counts = _numbers(text.groups, "<i8"), _numbers(text.counts, "<u2")
    requests, offsets = _numbers(text.requests, "<u4"), _numbers(text.offsets, "<u4")
    flagged = _numbers(text.lengths, "<u2")
    lengths = flagged & MOST_ITEM_TOKENS
    items, total = len(requests), int(lengths.sum())
    if len(groups) != len(counts) or not int(counts.sum()) == items == len(offsets) == len(lengths):
        raise BadFrame("corrupt", "message whose columns differ in length")
    width = len(text.tokens) // total if total else 0
    if len(text.tokens) != width * total or width not in ((2, 3, 4) if total else (0,)):
        raise BadFrame("corrupt", f"message of {len(text.tokens)} bytes for {total} tokens, wanted 2 to 4 bytes each")
    return Deltas(
        np.repeat(groups, counts), requests, offsets, lengths, flagged >= _FINISHED, _tokens(text.tokens, width)
    )


def _bytes(values: NDArray[Any], kind: str) -> bytes:
    return values.astype(kind).tobytes()


def _numbers(data: bytes, kind: str) -> NDArray[np.int64]:
    size = np.dtype(kind).itemsize
    if len(data) % size:
        raise BadFrame("corrupt", f"message with a column of {len(data)} bytes, wanted a multiple of {size}")
    return np.frombuffer(data, kind).astype(np.int64)


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
    return np.frombuffer(data, {2: "<u2", 4: "<i4"}.get(width, "<u2")).astype(np.int32)
