"""The schedule policy inside SGLang's scheduler: snapshot, decide, reorder the waiting queue."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from sglang.srt.managers.schedule_policy import SchedulePolicy

from sglang_seer.context import GroupTable
from sglang_seer.engine.requests import RequestStates
from sglang_seer.schedule import Snapshot, Waiting, WaitingGroups, decide
from sglang_seer.status import STATUS

# Attribute of a live request: its entry in snapshots while it waits.
WAITING = "_seer_waiting"
_HANDLE = attrgetter("handle")


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
        self._ignored = 0
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
        order = list(map(_HANDLE, decision.order))
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
        if waiting_queue[-1] is self._tail and len(self._waiting) + self._ignored == len(waiting_queue):
            return  # nobody joined behind the tail, and whoever left is known: still the same requests
        self._ignored = 0
        for request in waiting_queue:
            if WAITING not in request.__dict__:
                self._register(request)
            self._ignored += request.__dict__[WAITING] is None
        if len(self._waiting) + self._ignored == len(waiting_queue):
            return
        present = {id(request) for request in waiting_queue}
        for entry in [entry for members in self._waiting.by_group.values() for entry in members]:
            if id(entry.handle) not in present:
                self._waiting.remove(entry)
                del entry.handle.__dict__[WAITING]

    def _register(self, request: Any) -> None:
        """A request that joined, or came back after a retraction."""
        state = self._states.of(request)
        entry = None  # generates nothing: Seer leaves it alone
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

    def _snapshot(self, running_batch: Any) -> Snapshot:
        requests = running_batch.reqs if running_batch is not None else ()
        identities = [self._states.of(request).identity for request in requests]
        return Snapshot(
            waiting=self._waiting.by_group,
            longest_tokens=self._groups.longest_tokens,
            running={identity.group for identity in identities if identity is not None},
            admitted=self.admitted,
        )
