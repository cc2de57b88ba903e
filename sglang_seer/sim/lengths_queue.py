"""Seer inside one engine: the engine's own admission and order, without chunks that go elsewhere.

Who is next is decided by `schedule.WaitingQueue`, and whether it may join by `schedule.admit`, as in
`sglang_seer.engine`. Each engine learns from its own requests only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sglang_seer.context import ContextLengths, LengthModel, LongestSibling
from sglang_seer.schedule import Load, admit, risk_of
from sglang_seer.schedule.policy import STARVATION_LIMIT
from sglang_seer.sim.instance import FOREVER, Instance
from sglang_seer.sim.orders import ContextBuffer
from sglang_seer.sim.policy import Order
from sglang_seer.sim.request import Request
from sglang_seer.sim.static import StockQueue


class LengthsQueue(StockQueue):
    """The queue of one engine that runs Seer."""

    def __init__(self, instance: Instance, order: Order) -> None:
        super().__init__(instance, order)
        self._lengths: LengthModel = LongestSibling() if order is Order.LONGEST_SIBLING else ContextLengths()
        self._buffer = ContextBuffer(self._lengths, STARVATION_LIMIT)

    def put(self, request: Request) -> None:
        self._buffer.add(request)

    def sort(self) -> None:
        pass

    def admit(self) -> list[Request]:
        admitted: list[Request] = []
        if not self._buffer:
            return admitted
        instance = self.instance
        running = [self._load(request, instance.tokens_of(request)) for request in instance.running.values()]
        # A sibling's prompt is shared: what runs gives back what it generated, as the engine's adder counts it.
        held = sum(load.kv_tokens for load in running)
        while self._buffer and len(instance.running) < instance.profile.max_running:
            request = self._buffer.head()
            candidate = self._load(request, request.tokens, prompt_tokens=request.prompt_tokens)
            # A step writes its drafts, too, before it is known which of them stay.
            free = instance.free_tokens - (len(running) + 1) * instance.most_draft_tokens
            capacity = math.floor(free) + held
            if candidate.kv_tokens >= free or not admit(running, [candidate], max(capacity, 1), risk=risk_of):
                break
            self._buffer.take()
            instance.join(request, request.length_tokens, 0)
            admitted.append(request)
            running.append(self._load(request, request.tokens))
            held += running[-1].kv_tokens
        return admitted

    def _load(self, request: Request, tokens: float, prompt_tokens: int = 0) -> Load:
        made = math.floor(tokens + 1e-6)
        remaining = self._lengths.remaining(
            request.group, min(made, request.limit_tokens - 1), request.limit_tokens, member=request.index
        )
        return Load.of(prompt_tokens + made, remaining, group=request.group)

    def finished(self, request: Request) -> None:
        self._buffer.stopped(request)
        self._buffer.finished(request)

    def take_all(self, orphans: Sequence[Request]) -> list[Request]:
        for request in orphans:
            self._buffer.stopped(request)
        taken = []
        while self._buffer:
            taken.append(self._buffer.take())
            self._buffer.stopped(taken[-1])
        return taken

    def waits(self) -> bool:
        return bool(self._buffer)

    def steps_to_admission(self) -> int:
        # Nobody is let in by time alone.
        return FOREVER

    def _queue_again(self, request: Request) -> None:
        self._buffer.stopped(request)
        self._buffer.add(request)
