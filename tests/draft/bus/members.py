"""Engines on a bus, as tests need them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sglang_seer.draft.bus import Keeping, Pace, SharedText, deltas, share_text

VOCAB_SIZE = 1000
TIMEOUT_S = 120.0
# Quick, so that tests are.
PACE = Pace(flush_s=0.005, wait_s=0.005, patience_s=0.5)
GROUP, OTHER_GROUP = -(2**62), 7


def until(condition: Callable[[], bool], what: str = "it") -> None:
    """Wait for what must happen soon."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{what} did not happen"
        time.sleep(0.005)


@dataclass
class Member:
    """One engine: writes, and gathers what it takes by (group, request)."""

    shared: SharedText
    text: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    finished: list[tuple[int, int, int]] = field(default_factory=list)

    def write(self, group: int, request: int, offset: int, tokens: Iterable[int], *, finished: bool = False) -> None:
        piece = list(tokens)
        self.shared.publish(deltas([group], [request], [offset], [len(piece)], piece, [finished]))

    def take(self) -> None:
        arrived = self.shared.take()
        new = arrived.text
        for group, request, offset, piece in zip(
            new.groups.tolist(), new.requests.tolist(), new.offsets.tolist(), new.pieces(), strict=True
        ):
            text = self.text.setdefault((group, request), [])
            assert offset == len(text), "a hole or a repetition was delivered"
            text += piece.tolist()
        self.finished += arrived.finished

    def has(self, group: int, request: int, tokens: Iterable[int]) -> Callable[[], bool]:
        """Whether exactly this text has arrived, for `until`."""
        wanted = list(tokens)

        def arrived() -> bool:
            self.take()
            return self.text.get((group, request)) == wanted

        return arrived

    def status(self, name: str) -> object:
        return self.shared.status()[name]


def join(url: str, *, version: int = 1, required: bool = True, keeping: Keeping | None = None) -> Member:
    shared = share_text(url, version=version, vocab_size=VOCAB_SIZE, required=required, pace=PACE, keeping=keeping)
    assert shared is not None
    return Member(shared)
