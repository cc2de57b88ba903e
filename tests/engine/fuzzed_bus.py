"""Run by an engine's process before anything else: what arrives over the token bus is lost, late, twice or false.

A message may also be one that a peer could have made on purpose: right in form, with other tokens, offsets, groups or
weights. Which fate a message has is drawn from a fixed seed; what became of it is counted.
"""

import random
from functools import partial

import numpy as np

from sglang_seer.draft.bus import deltas, links, pieces, redis_bus, wire
from sglang_seer.status import STATUS

_dice = random.Random(0)
_kept = []
_FORGED = ("hostile", "tokens", "offsets", "foreign", "stale")


def _forged(frame, fate):
    new = wire.text_deltas(frame)
    tokens, offsets, groups, version = new.tokens.copy(), new.offsets, new.groups, frame.version
    if fate == "hostile":
        tokens += _dice.randrange(1, 50)
    elif fate == "tokens":
        tokens = np.array([_dice.randrange(0, 90) for _ in tokens], dtype=np.int32)
    elif fate == "offsets":
        offsets = offsets + _dice.randrange(1, 9)
    elif fate == "foreign":
        groups = groups + 1
    else:
        version += 1
    new = deltas(groups, new.requests, offsets, new.lengths, tokens, new.finished)
    (frame,) = wire.text_frames(version, frame.sender, new, first=frame.number, stamp_ms=frame.stamp_ms)
    return frame


def unpack(right, data, *of):
    fate = _dice.choice(["right"] * 6 + ["lost", "corrupt", "late", "twice", *_FORGED])
    if fate not in _FORGED:
        STATUS.counters[f"fuzz_{fate}"] += 1
    if fate == "lost":
        raise wire.BadFrame("corrupt", "lost")
    if fate == "corrupt":
        place = _dice.randrange(len(data))
        data = data[:place] + bytes([data[place] ^ 1 << _dice.randrange(8)]) + data[place + 1 :]
    elif fate == "late":
        _kept.append(data)
        data = _kept.pop(_dice.randrange(len(_kept)))
    elif fate == "twice":
        _kept.append(data)
    frame = right(data, *of)
    if isinstance(frame, wire.Text) and fate in _FORGED:
        STATUS.counters[f"fuzz_{fate}"] += 1
        return _forged(frame, fate)
    return frame


links.unpack = partial(unpack, wire.unpack)
redis_bus.unpack_piece = partial(unpack, pieces.unpack_piece)
