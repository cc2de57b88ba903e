"""The schedule policy inside SGLang's scheduler: snapshot, decide, reorder the waiting queue."""

from __future__ import annotations

from typing import Any

from sglang.srt.managers.schedule_policy import SchedulePolicy

from sglang_seer.context import GroupTable, estimate_tokens
from sglang_seer.engine.requests import RequestStates
from sglang_seer.schedule import Snapshot, Waiting, decide
from sglang_seer.status import STATUS


class SeerSchedulePolicy(SchedulePolicy):  # type: ignore[misc]
    """SGLang's first-come-first-served policy with its order replaced by Seer's.

    observe_only: decide and count, but leave the queue as it is.
    """

    def __init__(
        self, stock: SchedulePolicy, states: RequestStates, groups: GroupTable, *, starvation_limit: int, observe_only: bool
    ) -> None:
        # Take over the configured stock policy object instead of building a second one.
        self.__dict__.update(stock.__dict__)
        self._states = states
        self._groups = groups
        self._starvation_limit = starvation_limit
        self._observe_only = observe_only
        self._tail: Any = None
        self._known: tuple[int, int] | None = None
        self._last_length = 0
        self.admitted = 0

    def calc_priority(self, waiting_queue: list[Any], running_batch: Any = None, processed_tokens: int = 0) -> None:
        """Sort the queue in place. Does nothing while neither the queue's tail nor what is known has changed."""
        super().calc_priority(waiting_queue, running_batch, processed_tokens)
        if not waiting_queue:
            return
        STATUS.calls["calc_priority"] += 1
        # Requests join at the tail and leave from anywhere; a shorter queue with the same tail is still in order.
        known = (self._groups.version, self.admitted * 8 // self._starvation_limit)
        if waiting_queue[-1] is self._tail and known == self._known and len(waiting_queue) <= self._last_length:
            self._last_length = len(waiting_queue)
            return
        order = self._decide(waiting_queue, running_batch)
        if not self._observe_only:
            waiting_queue[:] = order
        self._tail, self._known = waiting_queue[-1], known
        self._last_length = len(waiting_queue)

    def _decide(self, waiting_queue: list[Any], running_batch: Any) -> list[Any]:
        states = self._states
        by_arrival: dict[int, Any] = {}
        waiting: list[Waiting] = []
        untouched: list[Any] = []
        for request in waiting_queue:
            state = states.of(request)
            if state.identity is None:
                untouched.append(request)
                continue
            entry = state.waiting
            if entry is None or entry.generated_tokens != len(request.output_ids):
                entry = state.waiting = self._waiting(request, state)
            by_arrival[entry.arrival] = request
            waiting.append(entry)
        decision = decide(self._snapshot(waiting, running_batch), starvation_limit=self._starvation_limit)
        order = untouched + [by_arrival[entry.arrival] for entry in decision.order]
        STATUS.counters["decisions"] += 1
        STATUS.counters["reordered"] += order != waiting_queue
        if len(order) > 1 and not self._observe_only:
            STATUS.first("ordered", "ordered its first queue: %d waiting, %d probes", len(order), decision.probes)
        return order

    def _waiting(self, request: Any, state: Any) -> Waiting:
        self._groups.touch(state.identity.group)
        return Waiting(
            group=state.identity.group,
            arrival=state.arrival,
            generated_tokens=len(request.output_ids),
            limit_tokens=state.identity.limit_tokens,
            admitted_before=self.admitted,
        )

    def _snapshot(self, waiting: list[Waiting], running_batch: Any) -> Snapshot:
        estimates: dict[str, int] = {}
        for entry in waiting:
            group = entry.group
            if group not in estimates:
                longest = self._groups.longest_finished_tokens(group)
                if longest is not None:
                    estimates[group] = estimate_tokens(longest, entry.limit_tokens)
        running = set()
        for request in running_batch.reqs if running_batch is not None else ():
            identity = self._states.of(request).identity
            if identity is not None:
                running.add(identity.group)
        return Snapshot(waiting=waiting, estimates=estimates, running=running, admitted=self.admitted)
