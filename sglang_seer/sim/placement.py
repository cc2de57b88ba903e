"""Where the next chunk of a request runs (Seer, OSDI 2026, section 3.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Above this spread of requests between instances, balance goes before what an instance holds of a request's KV.
MOST_SPREAD = 32


def choose(
    free_tokens: NDArray[np.float64], in_flight: NDArray[np.int64], need_tokens: float, home: int | None
) -> int | None:
    """The instance for a chunk that needs `need_tokens` of KV, or None if no instance has room.

    free_tokens, in_flight: [instances] KV not reserved (below 0: out of service) and requests. home: the instance that
    holds the request's KV. Balanced instances: home if it has room, else the one with most free KV. Otherwise the one
    with the fewest requests. Ties go to the first.
    """
    if not 0.0 < need_tokens < np.inf:
        raise ValueError(f"need_tokens: got {need_tokens}, wanted a positive number")
    roomy = free_tokens >= need_tokens
    if not roomy.any():
        return None
    usable = in_flight[free_tokens >= 0.0]
    if int(usable.max()) - int(usable.min()) > MOST_SPREAD:
        return int(np.argmin(np.where(roomy, in_flight, np.iinfo(np.int64).max)))
    if home is not None and roomy[home]:
        return home
    return int(np.argmax(np.where(roomy, free_tokens, -np.inf)))


def reserve_tokens(kv_tokens: int, chunk_tokens: int, left_tokens: int, draft_tokens: int) -> int:
    """KV that a request can need before its chunk ends: no more than its limit, and room for a draft."""
    return kv_tokens + min(chunk_tokens, left_tokens) + draft_tokens


