"""What every bus can do, and what it counts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sglang_seer.draft.bus.deltas import Deltas
from sglang_seer.draft.bus.wire import BadFrame

logger = logging.getLogger("sglang_seer")

Known = Callable[[int], Mapping[int, int]]
"""Of a subscribed group: offset by request up to which its text has been delivered here."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """Own text kept for engines that come later: so many tokens, and groups that got some within so many seconds."""

    tokens: int = 16 << 20
    ttl_s: float = 3600.0


class BusError(RuntimeError):
    """The bus cannot be used; the message says why, without passwords."""


class TokenBus(Protocol):
    """Moves deltas between engines. Used by one thread; no call waits longer than a socket's timeout.

    What `exchange` gives may be incomplete, repeated or out of order: `assembly.Assembler` puts it right, and asks
    for the rest with `catch_up`. Only text of the own weight version is given.
    """

    def publish(self, new: Deltas) -> None:
        """Offer own text, now and to engines that come later."""

    def subscribe(self, groups: Sequence[int]) -> None:
        """Fetch these groups from now on, from their start."""

    def unsubscribe(self, groups: Sequence[int]) -> None:
        """Fetch these groups no more."""

    def catch_up(self, groups: Sequence[int]) -> None:
        """Text of these subscribed groups is missing: fetch them again behind what is known."""

    def drop_group(self, group: int) -> None:
        """Offer own text of the group no more."""

    def drop_version(self, version: int) -> None:
        """The weights changed: forget all own text; text of this version alone counts from now on."""

    def exchange(self, timeout_s: float) -> list[Deltas]:
        """Send what is waiting, and return what arrived; waits at most so long for something to arrive."""

    def status(self) -> dict[str, Any]:
        """Plain types only."""

    def close(self) -> None:
        """Give sockets and files back."""


@dataclass(slots=True)
class Traffic:
    """Bytes are those of messages, without what the transport adds.

    lag_ms: from sending to arrival, a running mean. repairs: how often lost text was asked for again. dropped: messages
    that were not used, by reason.
    """

    sent_bytes: int = 0
    sent_tokens: int = 0
    received_bytes: int = 0
    received_tokens: int = 0
    lag_ms: float = 0.0
    repairs: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, error: BadFrame) -> None:
        """Count a message that is not used; an engine of another version is said plainly, once."""
        self.dropped[error.kind] += 1
        if error.kind == "protocol" and self.dropped["protocol"] == 1:
            logger.warning("seer: token bus: %s; its text is not used: run one version of sglang-seer on a bus", error)

    def arrived(self, tokens: int, age_ms: float) -> None:
        """Text of another engine arrived, so long after it was sent."""
        self.received_tokens += tokens
        self.lag_ms += 0.05 * (age_ms - self.lag_ms)

    def as_dict(self) -> dict[str, Any]:
        """Plain types only."""
        return {
            "sent_bytes": self.sent_bytes,
            "sent_tokens": self.sent_tokens,
            "received_bytes": self.received_bytes,
            "received_tokens": self.received_tokens,
            "lag_ms": round(self.lag_ms, 3),
            "repairs": self.repairs,
            "dropped_messages": dict(self.dropped),
        }
