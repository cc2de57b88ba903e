"""The responses of an engine, window by window, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from sglang_seer.observe.record import Response, Window

MOST_RESPONSES = 4096
# An engine that had nothing to do for so long begins another window.
PAUSE_S = 5.0
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class _Running:
    group: int
    prompt_tokens: int
    limit_tokens: int
    arrived_s: float
    first_s: float


@dataclass(slots=True)
class _Open:
    """The present window. Times are the caller's clock."""

    began_s: float = 0.0
    last_s: float = 0.0
    joined: int = 0
    chunks: int = 0
    left_out: int = 0
    groups: dict[str, int] = field(default_factory=dict)
    # By whatever lives as long as the request: one that goes without a word was aborted.
    running: WeakKeyDictionary[object, _Running] = field(default_factory=WeakKeyDictionary)
    responses: list[Response] = field(default_factory=list)

    def shown(self) -> Window:
        running = len(self.running)
        return Window(
            responses=list(self.responses),
            running=running,
            aborted=self.joined - len(self.responses) - self.chunks - running,
            chunks=self.chunks,
            left_out=self.left_out,
        )


class Windows:
    """Told what becomes of requests; a request's key is any object that lives as long as it does."""

    def __init__(self, most_responses: int = MOST_RESPONSES, pause_s: float = PAUSE_S) -> None:
        self._most_responses = most_responses
        self._pause_s = pause_s
        self._whole: Window | None = None
        self._open = _Open()
        # Of the present window.
        self.number = 1

    def joined(
        self, key: object, group: str, *, prompt_tokens: int, limit_tokens: int, arrived_s: float, now_s: float
    ) -> int | None:
        """A request has its first token. Returns its group's number in the window, None if it is left out."""
        window = self._open
        full = window.joined >= self._most_responses
        if window.joined and not window.running and (full or now_s - window.last_s > self._pause_s):
            self.close()
            window, full = self._open, False
        if full:
            window.left_out += 1
            return None
        if not window.joined:
            window.began_s = arrived_s
        window.joined += 1
        number = window.groups.setdefault(group, len(window.groups))
        began_s = window.began_s
        window.running[key] = _Running(
            number, prompt_tokens, limit_tokens, round(arrived_s - began_s, _DIGITS), round(now_s - began_s, _DIGITS)
        )
        window.last_s = now_s
        return number

    def ended(self, key: object, tokens: int, *, retractions: int, now_s: float) -> int | None:
        """It ended with so many response tokens. Returns its group's number, None if it was left out."""
        window = self._open
        one = window.running.pop(key, None)
        if one is None:
            return None
        window.last_s = now_s
        window.responses.append(
            Response(
                one.group,
                one.prompt_tokens,
                tokens,
                max(one.limit_tokens, tokens),
                max(one.arrived_s, 0.0),
                one.first_s,
                round(now_s - window.began_s, _DIGITS),
                retractions,
            )
        )
        return one.group

    def aborted(self, key: object, now_s: float) -> None:
        """It ended without a length."""
        if self._open.running.pop(key, None) is not None:
            self._open.last_s = now_s

    def chunk_ended(self, key: object, now_s: float) -> None:
        """Its response goes on in another request."""
        if self._open.running.pop(key, None) is not None:
            self._open.chunks += 1
            self._open.last_s = now_s

    def close(self) -> None:
        """The next request begins another window; this one is kept as the last whole one if anything ended in it."""
        if self._open.responses or self._open.chunks:
            self._whole = self._open.shown()
        self._open = _Open()
        self.number += 1

    def shown(self) -> Iterator[Window]:
        """The last whole window, if there is one, and the present one."""
        if self._whole is not None:
            yield self._whole
        yield self._open.shown()
