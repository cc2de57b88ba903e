"""The buffer of waiting requests, in the order of a policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Protocol

from sglang_seer.context import ContextLengths, LengthModel, LongestSibling
from sglang_seer.schedule import Rules, Waiting, WaitingQueue
from sglang_seer.sim.policy import Order
from sglang_seer.sim.request import Request

# Admissions that may pass a request by. Every chunk is one, so this is far more than for whole requests: in a
# synchronous rollout nobody waits for ever, and a guard that acts early only undoes the order.
STARVATION_LIMIT = 1 << 20


class Buffer(Protocol):
    """Waiting requests, best first."""

    def __len__(self) -> int: ...

    def add(self, request: Request) -> None: ...

    def head(self) -> Request: ...

    def take(self) -> Request:
        """Remove the head, which begins to run."""

    def stopped(self, request: Request) -> None:
        """A request that was taken runs no more: it finished, or it is about to be added again."""

    def finished(self, request: Request) -> None: ...


class SortedBuffer:
    """By a key that does not change while a request waits."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._heap: list[tuple[int, int, Request]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, request: Request) -> None:
        key = {Order.ARRIVAL: 0, Order.LIMIT: -request.limit_tokens, Order.ORACLE: -request.remaining_tokens}
        heappush(self._heap, (key[self._order], request.index, request))

    def head(self) -> Request:
        return self._heap[0][2]

    def take(self) -> Request:
        return heappop(self._heap)[2]

    def stopped(self, request: Request) -> None:
        pass

    def finished(self, request: Request) -> None:
        pass


class ContextBuffer:
    """By `sglang_seer.schedule`, under a length model that hears what a controller hears: lengths at chunk ends."""

    def __init__(self, lengths: LengthModel, starvation_limit: int = STARVATION_LIMIT) -> None:
        self._lengths = lengths
        self._waiting = WaitingQueue(lengths, Rules(starvation_limit=starvation_limit))
        self._running: Counter[str] = Counter()
        self._entries: dict[int, Waiting] = {}
        self._order: Sequence[Waiting] = ()
        self._next = 0
        self._admitted = 0
        self._stale = True

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: Request) -> None:
        entry = Waiting(
            arrival=request.index,
            group=request.group,
            generated_tokens=request.tokens,
            limit_tokens=request.limit_tokens,
            admitted_before=self._admitted,
            handle=request,
        )
        if request.tokens:
            self._lengths.progress(request.group, request.index, request.tokens)
        self._waiting.add(entry)
        self._entries[request.index] = entry
        self._stale = True

    def head(self) -> Request:
        if self._stale:
            self._order = self._waiting.decide(self._running, self._admitted).order
            self._next = 0
            self._stale = False
        request = self._order[self._next].handle
        assert isinstance(request, Request)
        return request

    def take(self) -> Request:
        request = self.head()
        self._next += 1
        self._waiting.remove(self._entries.pop(request.index))
        self._running[request.group] += 1
        self._admitted += 1
        return request

    def stopped(self, request: Request) -> None:
        self._running[request.group] -= 1
        if not self._running[request.group]:
            del self._running[request.group]
        self._stale = True

    def finished(self, request: Request) -> None:
        self._lengths.finish(
            request.group, request.length_tokens, member=request.index, limit_tokens=request.limit_tokens
        )
        self._stale = True


def buffer(order: Order) -> Buffer:
    """The buffer of an order."""
    if order is Order.CONTEXT:
        return ContextBuffer(ContextLengths())
    if order is Order.LONGEST_SIBLING:
        return ContextBuffer(LongestSibling())
    return SortedBuffer(order)
