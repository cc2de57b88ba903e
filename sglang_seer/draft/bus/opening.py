"""From a URL to text that is shared."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from sglang_seer.draft.bus.address import parse_address, without_password
from sglang_seer.draft.bus.protocol import BusError, Keeping, Known, TokenBus
from sglang_seer.draft.bus.shared import Pace, SharedText

logger = logging.getLogger("sglang_seer")


def share_text(
    url: str,
    *,
    version: int,
    vocab_size: int,
    required: bool = True,
    pace: Pace | None = None,
    keeping: Keeping | None = None,
) -> SharedText | None:
    """Join the bus of a URL.

    Args:
        url: `inproc:NAME`, `ipc:///FOLDER`, `tcp://...`, `redis://...`, see `parse_address`.
        version: a number for model and weights; text of another number is not used. Equal on all engines.
        vocab_size: of the draft index.
        required: if the bus cannot be opened, raise; otherwise warn and return None, or, where it may come later
            (Redis), go on without it and keep trying.
        pace: how long what waits.
        keeping: how much is kept for engines that come later.

    Raises:
        ValueError: the URL is not one.
        BusError: the bus is required and cannot be opened.
    """
    address = parse_address(url)
    kept = keeping or Keeping()

    def open_bus(known: Known) -> TokenBus:
        if address.kind == "inproc":
            from sglang_seer.draft.bus.inproc import InprocBus

            return InprocBus(address.place, version=version, known=known, keeping=kept)
        if address.kind == "redis":
            if find_spec("redis") is None:
                raise BusError("bus: Redis needs the client: pip install 'sglang-seer[redis]'")
            from sglang_seer.draft.bus.redis_bus import RedisBus

            return RedisBus(address, version=version, known=known, keeping=kept, required=required)
        from sglang_seer.draft.bus.zmq_bus import ZmqBus

        return ZmqBus(address, version=version, known=known, keeping=kept)

    try:
        return SharedText(open_bus, vocab_size=vocab_size, pace=pace)
    except BusError as error:
        if required:
            raise
        logger.warning("seer: %s; drafting goes on from local text (bus %s)", error, without_password(url))
        return None
