"""The schedule policy inside SGLang's scheduler: snapshot, decide, reorder the waiting queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from sglang.srt.managers.schedule_policy import SchedulePolicy

from sglang_seer.context import LengthModel
from sglang_seer.engine.requests import RequestStates
from sglang_seer.schedule import Decision, Rules, Waiting, WaitingQueue
from sglang_seer.status import STATUS

# Attribute of a live request: its entry in snapshots while it waits.
WAITING = "_seer_waiting"
_HANDLE = attrgetter("handle")


class SeerSchedulePolicy(SchedulePolicy):  # type: ignore[misc]
    """SGLang's first-come-first-served policy with its order replaced by Seer's.

    on_pass: called once a pass, may raise.
    """

    def __init__(
        self,
        stock: SchedulePolicy,
        states: RequestStates,
        lengths: LengthModel,
        *,
        rules: Rules,
        on_pass: Callable[[], None] = lambda: None,
    ) -> None:
        # Take over the configured stock policy object instead of building a second one.
        self.__dict__.update(stock.__dict__)
        self._states = states
        self._lengths = lengths
        self._rules = rules
        self._on_pass = on_pass
        self._waiting = WaitingQueue(lengths, rules)
        self._last_queue: list[Any] = []
        self._known: tuple[int, int] | None = None
        self.admitted = 0

    def calc_priority(self, waiting_queue: list[Any], running_batch: Any = None, *more: Any, **named: Any) -> None:
        """Sort the queue in place. Does nothing while only its head has left and nothing was learnt."""
        super().calc_priority(waiting_queue, running_batch, *more, **named)
        if not waiting_queue:
            return
        STATUS.calls["calc_priority"] += 1
        self._on_pass()
        # Whoever left since the last full pass counts towards starvation as well.
        left = max(0, len(self._last_queue) - len(waiting_queue))
        known = (self._lengths.version, (self.admitted + left) * 8 // self._rules.starvation_limit)
        if known == self._known and self._only_head_left(waiting_queue):
            return
        self._catch_up(waiting_queue)
        order = self._decide(waiting_queue, running_batch)
        waiting_queue[:] = order
        self._last_queue, self._known = list(waiting_queue), known

    def _only_head_left(self, waiting_queue: list[Any]) -> bool:
        """Whether the queue is the end of the last one: nobody joined, came back, or left from the middle."""
        left = len(self._last_queue) - len(waiting_queue)
        return left >= 0 and waiting_queue == self._last_queue[left:]

    def _catch_up(self, waiting_queue: list[Any]) -> None:
        """Make `_waiting` hold exactly the queue's requests, whatever joined, left, came back or was aborted.

        A request has the attribute WAITING from `_register` to `_forget`, and its entry is in `_waiting` as long.
        """
        if self._only_head_left(waiting_queue):
            for request in self._last_queue[: len(self._last_queue) - len(waiting_queue)]:
                self._forget(request)
            return
        present = set(map(id, waiting_queue))
        for request in self._last_queue:
            if id(request) not in present:
                self._forget(request)
        for request in waiting_queue:
            if WAITING not in request.__dict__:
                self._register(request)

    def decision(self, waiting_queue: list[Any], running_batch: Any) -> Decision:
        """The order of what waits now; the queue stays as it is. Requests that generate nothing are not in it."""
        self._catch_up(waiting_queue)
        self._last_queue = list(waiting_queue)
        return self._waiting.decide(self._running(running_batch), self.admitted)

    def _decide(self, waiting_queue: list[Any], running_batch: Any) -> list[Any]:
        decision = self._waiting.decide(self._running(running_batch), self.admitted)
        order = list(map(_HANDLE, decision.order))
        if len(order) < len(waiting_queue):
            order = [request for request in waiting_queue if request.__dict__[WAITING] is None] + order
        assert len(order) == len(waiting_queue), "the policy lost or invented a request"
        STATUS.counters["decisions"] += 1
        STATUS.counters["reordered"] += order != waiting_queue
        if len(order) > 1:
            STATUS.first("ordered", "ordered its first queue: %d waiting, %d probes", len(order), decision.probes)
        return order

    def _register(self, request: Any) -> None:
        """A request that joined, or came back after a retraction."""
        state = self._states.of(request)
        entry = None  # generates nothing: Seer leaves it alone
        if state.identity is not None:
            # Input behind the prompt is what earlier chunks generated.
            earlier = len(request.origin_input_ids_unpadded) - state.identity.prompt_tokens
            entry = Waiting(
                arrival=state.arrival,
                group=state.identity.group,
                generated_tokens=earlier + len(request.output_ids),
                limit_tokens=state.identity.limit_tokens,
                admitted_before=self.admitted,
                handle=request,
            )
            self._waiting.add(entry)
        setattr(request, WAITING, entry)

    def _forget(self, request: Any) -> None:
        """A request that left the queue: admitted, or aborted."""
        entry = request.__dict__.pop(WAITING)
        if entry is not None:
            self._waiting.remove(entry)
            self.admitted += 1

    def _running(self, running_batch: Any) -> Counter[str]:
        """How many members of each group run."""
        requests = running_batch.reqs if running_batch is not None else ()
        identities = [self._states.of(request).identity for request in requests]
        return Counter(identity.group for identity in identities if identity is not None)
