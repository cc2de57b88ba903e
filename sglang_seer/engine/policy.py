"""The schedule policy inside SGLang's scheduler: snapshot, decide, reorder the waiting queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sglang.srt.managers.schedule_policy import SchedulePolicy

from sglang_seer.context import GroupTable, estimate_tokens
from sglang_seer.engine.requests import RequestStates
from sglang_seer.schedule import Snapshot, Waiting, WaitingGroups, decide
from sglang_seer.status import STATUS

# Attribute of a live request: its entry in snapshots while it waits.
WAITING = "_seer_waiting"


class SeerSchedulePolicy(SchedulePolicy):  # type: ignore[misc]
    """SGLang's first-come-first-served policy with its order replaced by Seer's.

    observe_only: decide and count, but leave the queue as it is.
    """

    def __init__(
        self,
        stock: SchedulePolicy,
        states: RequestStates,
        groups: GroupTable,
        *,
        starvation_limit: int,
        observe_only: bool,
    ) -> None:
        # Take over the configured stock policy object instead of building a second one.
        self.__dict__.update(stock.__dict__)
        self._states = states
        self._groups = groups
        self._starvation_limit = starvation_limit
        self._observe_only = observe_only
        self._waiting = WaitingGroups()
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
        if waiting_queue[-1] is not self._tail or known != self._known or len(waiting_queue) > self._last_length:
            order = self._decide(waiting_queue, running_batch)
            if not self._observe_only:
                waiting_queue[:] = order
            self._tail, self._known = waiting_queue[-1], known
        self._last_length = len(waiting_queue)

    def note_admitted(self, requests: Sequence[Any]) -> None:
        """A prefill batch ran: its requests wait no more."""
        self.admitted += len(requests)
        for request in requests:
            if (entry := request.__dict__.pop(WAITING, None)) is not None:
                self._waiting.remove(entry)

    def _decide(self, waiting_queue: list[Any], running_batch: Any) -> list[Any]:
        self._catch_up(waiting_queue)
        decision = decide(self._snapshot(running_batch), starvation_limit=self._starvation_limit)
        order = [entry[-1] for entry in decision.order]  # the handles
        if len(order) < len(waiting_queue):
            order = [request for request in waiting_queue if request.__dict__[WAITING] is None] + order
        STATUS.counters["decisions"] += 1
        STATUS.counters["reordered"] += order != waiting_queue
        if len(order) > 1 and not self._observe_only:
            STATUS.first("ordered", "ordered its first queue: %d waiting, %d probes", len(order), decision.probes)
        return order

    def _catch_up(self, waiting_queue: list[Any]) -> None:
        """Make `_waiting` hold exactly the queue's requests.

        Afterwards every request of the queue has its entry, so equal sizes mean equal sets; they differ when requests
        left unseen (aborted, or admitted in a batch whose result is still to come).
        """
        entries = [request.__dict__.get(WAITING) for request in waiting_queue]
        ignored = 0
        if not all(entries):
            for request, entry in zip(waiting_queue, entries, strict=True):
                if entry is None:
                    ignored += self._register(request) is None
        if len(self._waiting) + ignored == len(waiting_queue):
            return
        present = {id(request) for request in waiting_queue}
        gone = [entry for members in self._waiting.by_group.values() for entry in members]
        for entry in gone:
            if id(entry.handle) not in present:
                self._waiting.remove(entry)
                del entry.handle.__dict__[WAITING]  # type: ignore[attr-defined]

    def _register(self, request: Any) -> Waiting | None:
        """A request that joined, or came back after a retraction; None if it generates nothing."""
        state = self._states.of(request)
        entry = None
        if state.identity is not None:
            self._groups.touch(state.identity.group)
            entry = Waiting(
                arrival=state.arrival,
                group=state.identity.group,
                generated_tokens=len(request.output_ids),
                limit_tokens=state.identity.limit_tokens,
                admitted_before=self.admitted,
                handle=request,
            )
            self._waiting.add(entry)
        setattr(request, WAITING, entry)
        return entry

    def _snapshot(self, running_batch: Any) -> Snapshot:
        waiting = self._waiting.by_group
        estimates = {
            group: estimate_tokens(longest, members[0].limit_tokens)
            for group, members in waiting.items()
            if (longest := self._groups.longest_finished_tokens(group)) is not None
        }
        running = set()
        for request in running_batch.reqs if running_batch is not None else ():
            identity = self._states.of(request).identity
            if identity is not None:
                running.add(identity.group)
        return Snapshot(waiting=waiting, estimates=estimates, running=running, admitted=self.admitted)
