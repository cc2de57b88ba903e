"""The draft server without a server: siblings on other engines draft, too.

After Seer's distributed grouped draft server (OSDI 2026, section 3.4 and A.2): engines append new tokens in batches,
others fetch the increments of the groups that they serve and draft from them locally. Nothing of this is on the
decoding path.
"""

from sglang_seer.draft.bus.address import parse_address, without_password
from sglang_seer.draft.bus.deltas import MOST_REQUESTS, Deltas, deltas
from sglang_seer.draft.bus.opening import share_text
from sglang_seer.draft.bus.protocol import BusError, Keeping, TokenBus
from sglang_seer.draft.bus.shared import Arrived, Pace, SharedText

__all__ = [
    "MOST_REQUESTS",
    "Arrived",
    "BusError",
    "Deltas",
    "Keeping",
    "Pace",
    "SharedText",
    "TokenBus",
    "deltas",
    "parse_address",
    "share_text",
    "without_password",
]
