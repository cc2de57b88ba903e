"""Frames of one group, for a bus with a place for each: what the place says is not said again.

An engine with one request of a group writes four tokens at a time, so a header costs as much as the text. Weight
version and group are those of the place; they are in the checksum, so that text that was put elsewhere is refused.
"""

from __future__ import annotations

import zlib

import msgspec

from sglang_seer.draft.bus.wire import PROTOCOL, BadFrame, Text, checked_protocol

_ENCODER = msgspec.msgpack.Encoder()


class Piece(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """columns: requests, offsets, lengths and tokens of `Text`, one behind the other, of so many items. widths: which
    of the possible widths offsets, lengths and tokens have."""

    sender: int
    widths: int
    items: int
    columns: bytes


_DECODER = msgspec.msgpack.Decoder(Piece)


def pack_piece(text: Text) -> bytes:
    """A frame of one group in its envelope, without what its place says. text: as `group_texts` makes it."""
    items = len(text.requests) // 4
    wide, long = len(text.offsets) // items, len(text.lengths) // items
    total = _total(text.lengths, long)
    width = len(text.tokens) // total if total else 2
    widths = (wide == 4) + 2 * (long == 2) + 4 * (width - 2)
    columns = text.requests + text.offsets + text.lengths + text.tokens
    body = _ENCODER.encode(Piece(text.sender, widths, items, columns))
    check = zlib.crc32(body, place_of(text.version, text.groups))
    return PROTOCOL.to_bytes(1, "little") + check.to_bytes(4, "little") + body


def unpack_piece(data: bytes, version: int, group: bytes, place: int) -> Text:
    """The frame of an envelope that was found at a place. Raises BadFrame.

    group: 8 bytes, as in `Text`. place: `place_of` both.
    """
    body = checked_protocol(data)
    if zlib.crc32(body, place) != int.from_bytes(data[1:5], "little"):
        raise BadFrame("corrupt", "the checksum is not that of the message, or the message is of another place")
    try:
        piece = _DECODER.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BadFrame("corrupt", f"message that cannot be decoded: {error}") from error
    items, columns = piece.items, piece.columns
    if not (0 <= piece.widths < 12 and 0 < items < 1 << 16 and len(columns) >= 7 * items):
        raise BadFrame("corrupt", f"message of {items} items, {len(columns)} bytes and widths {piece.widths}")
    offsets_at = 4 * items
    lengths_at = offsets_at + (4 if piece.widths & 1 else 2) * items
    tokens_at = lengths_at + (2 if piece.widths & 2 else 1) * items
    return Text(
        version,
        piece.sender,
        0,
        0,
        group,
        items.to_bytes(2, "little"),
        columns[:offsets_at],
        columns[offsets_at:lengths_at],
        columns[lengths_at:tokens_at],
        columns[tokens_at:],
    )


def place_of(version: int, group: bytes) -> int:
    """What a place adds to the checksum of its messages. group: 8 bytes."""
    return zlib.crc32(version.to_bytes(8, "little", signed=True) + group)


def _total(lengths: bytes, long: int) -> int:
    """Sum of a column of lengths without their flags."""
    if long == 1:
        return sum(length & 0x7F for length in lengths)
    return sum(lengths[::2]) + 256 * sum(high & 0x7F for high in lengths[1::2])
