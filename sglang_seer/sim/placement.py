"""Where the next chunk of a request runs.

The paper's rule (Seer, OSDI 2026, section 3.2) is `spread`: stay with the KV until the instances differ by more than 32
requests. Where few requests run on an instance that is most of them: in the tail some instances would be full while
others idle. As moving KV costs little, our rule is to stay only while the instance is about as full as the emptiest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PAPER_SPREAD = 32
# A request stays where its KV is while that instance has at most so many requests more than the emptiest: this share
# of the mean, and one at least.
STAY_SHARE = 0.05

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]


def choose(
    free_tokens: Float64Array,
    in_flight: Int64Array,
    need_tokens: float,
    home: int | None,
    *,
    spread: int | None = None,
) -> int | None:
    """The instance for a chunk that needs `need_tokens` of KV, or None if no instance has room.

    free_tokens, in_flight: [instances] KV not reserved (below 0: out of service) and requests. home: the instance that
    holds the request's KV. spread: the paper's rule with that number. Ties go to the first.
    """
    if not 0.0 < need_tokens < np.inf:
        raise ValueError(f"need_tokens: got {need_tokens}, wanted a positive number")
    roomy = free_tokens >= need_tokens
    if not roomy.any():
        return None
    emptiest = int(np.argmin(np.where(roomy, in_flight, np.iinfo(np.int64).max)))
    usable = in_flight[free_tokens >= 0.0]
    if spread is not None:
        if int(usable.max()) - int(usable.min()) > spread:
            return emptiest
        if home is not None and roomy[home]:
            return home
        return int(np.argmax(np.where(roomy, free_tokens, -np.inf)))
    if home is not None and roomy[home]:
        ahead = int(in_flight[home] - in_flight[emptiest])
        if ahead <= max(1.0, STAY_SHARE * float(usable.mean())):
            return home
    return emptiest


def reserve_tokens(kv_tokens: int, chunk_tokens: int, left_tokens: int, draft_tokens: int) -> int:
    """KV that a request can need before its chunk ends: no more than its limit, and room for a draft."""
    return kv_tokens + min(chunk_tokens, left_tokens) + draft_tokens
