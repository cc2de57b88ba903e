"""Who runs where: requests bound to stock engines, or chunks from one buffer for all instances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from sglang_seer.schedule.placement import EngineLoad, place
from sglang_seer.sim.instance import FOREVER, Instance
from sglang_seer.sim.lengths_queue import LengthsQueue
from sglang_seer.sim.orders import buffer
from sglang_seer.sim.policy import Drafts, Order, Policy
from sglang_seer.sim.request import NOWHERE, POOL, Request
from sglang_seer.sim.result import Counts
from sglang_seer.sim.static import StockQueue, assigned

if TYPE_CHECKING:
    from sglang_seer.sim.cluster import Cluster

# An instance whose batch changed, with a request for it (None: only plan again) and the time its KV is there.
Changes = list[tuple[Instance, Request | None, float]]


class Dispatch(Protocol):
    """Answers to events. Each returns the instances to plan again, with the requests to begin there."""

    def start(self, requests: Sequence[Request]) -> Changes:
        """All there will be; those that arrive later are asked for then."""

    def ask(self, request: Request) -> Changes: ...

    def admit(self, instance: Instance) -> Changes: ...

    def begin(self, instance: Instance, request: Request, kind: int) -> None: ...

    def expected(self, instance: Instance, request: Request) -> bool: ...

    def chunk_ended(self, instance: Instance, request: Request) -> None: ...

    def finished(self, instance: Instance, request: Request) -> None: ...

    def overflow(self, instance: Instance) -> None: ...

    def failed(self, instance: Instance, orphans: Sequence[Request]) -> Changes: ...

    def recovered(self, instance: Instance) -> Changes: ...

    def steps_to_admission(self, instance: Instance) -> int: ...


def prefill(instance: Instance, request: Request, counts: Counts) -> None:
    """Make the KV of a request that has none here. A sibling's prompt is in the prefix cache."""
    cached = request.prompt_tokens if request.group in instance.prompts_seen else 0
    instance.prompts_seen.add(request.group)
    new = request.kv_tokens - cached
    counts.prefilled_tokens += new
    if request.tokens:
        counts.prefilled_again_tokens += new
    instance.stall(instance.profile.prefill_seconds(new, cached))
    request.kv_at = instance.index


class Stock:
    """Stock engines behind a fixed assignment; after a failure, its requests start again on those that are left."""

    def __init__(
        self, policy: Policy, instances: Sequence[Instance], counts: Counts, kind_of: Callable[[Request], int]
    ) -> None:
        """kind_of: class of a request's acceptance now."""
        self._policy = policy
        self._instances = instances
        self._counts = counts
        self._kind_of = kind_of
        self._at: dict[int, int] = {}
        informed = policy.order in (Order.CONTEXT, Order.LONGEST_SIBLING)
        self._queues = [
            LengthsQueue(instance, policy.order) if informed else StockQueue(instance, policy.order)
            for instance in instances
        ]
        self._homeless: list[Request] = []

    def start(self, requests: Sequence[Request]) -> Changes:
        changed: Changes = []
        places = assigned(list(requests), len(self._instances), self._policy.placement)
        for request, at in zip(requests, places, strict=True):
            self._at[request.index] = at
            if not request.arrives_s:
                self._queues[at].put(request)
        for queue in self._queues:
            queue.sort()
            changed += self.admit(queue.instance)
        return changed

    def ask(self, request: Request) -> Changes:
        queue = self._queues[self._at[request.index]]
        if not queue.instance.alive:
            self._homeless.append(request)
            return self._house()
        queue.put(request)
        queue.sort()
        # Somebody new is looked at between two steps.
        queue.instance.catch_up(request.arrives_s)
        return self.admit(queue.instance)

    def admit(self, instance: Instance) -> Changes:
        if not instance.alive:
            return []
        for request in self._queues[instance.index].admit():
            prefill(instance, request, self._counts)
            instance.change_kind(request, self._kind_of(request))
        return [(instance, None, 0.0)]

    def begin(self, instance: Instance, request: Request, kind: int) -> None:
        raise AssertionError("stock engines admit by themselves")

    def expected(self, instance: Instance, request: Request) -> bool:
        return False

    def chunk_ended(self, instance: Instance, request: Request) -> None:
        raise AssertionError("stock engines know no chunks")

    def finished(self, instance: Instance, request: Request) -> None:
        self._queues[instance.index].finished(request)

    def overflow(self, instance: Instance) -> None:
        tokens = {index: instance.whole_tokens_of(request) for index, request in instance.running.items()}
        for request in self._queues[instance.index].retract():
            self._counts.generated_tokens += tokens[request.index] - request.joined_tokens
            self._counts.retractions += 1

    def failed(self, instance: Instance, orphans: Sequence[Request]) -> Changes:
        queue = self._queues[instance.index]
        self._homeless += [*orphans, *queue.take_all(orphans)]
        for request in orphans:
            # The engine had returned nothing of an unfinished response.
            self._counts.lost_tokens += request.tokens
            request.tokens, request.kv_at = 0, NOWHERE
        return self._house()

    def recovered(self, instance: Instance) -> Changes:
        return self._house()

    def _house(self) -> Changes:
        alive = [queue for queue in self._queues if queue.instance.alive]
        if not alive:
            return []
        touched: dict[int, Instance] = {}
        for number, request in enumerate(self._homeless):
            queue = alive[number % len(alive)]
            queue.put(request)
            touched[queue.instance.index] = queue.instance
        self._homeless.clear()
        return [(instance, None, 0.0) for instance in touched.values()]

    def steps_to_admission(self, instance: Instance) -> int:
        if not instance.alive:
            return FOREVER
        queue = self._queues[instance.index]
        if queue.waits() and not instance.running:
            return 0
        return queue.steps_to_admission()


class Divided:
    """Chunks from one buffer. A chunk's KV is reserved to its end, so that nobody is ever retracted."""

    def __init__(self, cluster: Cluster, policy: Policy, instances: Sequence[Instance], counts: Counts) -> None:
        self._profile = cluster.profile
        self._chunk_tokens = cluster.chunk_tokens
        self._rules = cluster.placement
        self._draft_tokens = cluster.acceptance.longest + 1 if policy.drafts is not Drafts.NONE else 0
        self._instances = instances
        self._counts = counts
        self._buffer = buffer(policy.order)
        self._loads = [
            EngineLoad(str(instance.index), cluster.profile.kv_capacity_tokens, cluster.profile.max_running)
            for instance in instances
        ]
        self._up = list(self._loads)
        # By index, with the instance: those that run there and those on their way.
        self._placed: dict[int, tuple[Request, int]] = {}
        # Chunks that ended in this event, and those of them that go on where they were, as if nothing had happened.
        self._ended: set[int] = set()
        self._continues: set[int] = set()
        self._now_s = 0.0

    def start(self, requests: Sequence[Request]) -> Changes:
        for request in requests:
            if not request.arrives_s:
                self._buffer.add(request)
        return self._schedule(0.0)

    def ask(self, request: Request) -> Changes:
        self._buffer.add(request)
        return self._schedule(request.arrives_s)

    def admit(self, instance: Instance) -> Changes:
        return self._schedule(instance.now_s)

    def _schedule(self, time_s: float) -> Changes:
        """Place the buffer's head as long as some instance has room for its next chunk."""
        self._now_s = max(self._now_s, time_s)
        changed: Changes = []
        while self._buffer:
            request = self._buffer.head()
            # What it can need before the chunk ends: no more than its limit, and room for a draft.
            left = min(self._chunk_tokens, request.limit_tokens - request.tokens)
            need = request.kv_tokens + left + self._draft_tokens
            cached = {str(request.kv_at): request.kv_tokens} if request.kv_at >= 0 else {}
            chosen = place(need, cached, self._up, self._rules)
            if chosen is None:
                break
            self._buffer.take()
            at = int(chosen.engine.name)
            instance = self._instances[at]
            self._reserve(instance, request, need)
            if request.index in self._ended and request.kv_at == at:
                self._continues.add(request.index)
            changed.append((instance, request, time_s + self._bring(instance, request)))
        self._ended.clear()
        return changed

    def _reserve(self, instance: Instance, request: Request, need: int) -> None:
        request.reserved_tokens = need
        self._placed[request.index] = request, instance.index
        load = self._loads[instance.index]
        load.reserved_tokens += need
        load.in_flight += 1

    def _release(self, instance: Instance, request: Request) -> None:
        del self._placed[request.index]
        load = self._loads[instance.index]
        load.reserved_tokens -= request.reserved_tokens
        load.in_flight -= 1
        request.reserved_tokens = 0
        self._buffer.stopped(request)

    def _bring(self, instance: Instance, request: Request) -> float:
        """Seconds until the KV is on the instance; what was never computed is prefilled there instead."""
        if request.kv_at in (NOWHERE, instance.index):
            return 0.0
        self._counts.migrations += 1
        self._counts.migrated_bytes += request.kv_tokens * self._profile.kv_bytes_per_token
        return self._profile.transfer_seconds(request.kv_tokens)

    def begin(self, instance: Instance, request: Request, kind: int) -> None:
        if request.kv_at == NOWHERE:
            prefill(instance, request, self._counts)
        elif request.index not in self._continues:
            # Whoever comes back is prefilled with its last token.
            self._counts.prefilled_tokens += 1
            self._counts.prefilled_again_tokens += 1
            instance.stall(instance.profile.prefill_seconds(1, request.kv_tokens))
        self._continues.discard(request.index)
        request.kv_at = instance.index
        self._counts.chunks += 1
        target = min(request.tokens + self._chunk_tokens, request.length_tokens)
        instance.join(request, target, kind)

    def expected(self, instance: Instance, request: Request) -> bool:
        placed = self._placed.get(request.index)
        return placed is not None and placed[1] == instance.index and request.index not in instance.running

    def chunk_ended(self, instance: Instance, request: Request) -> None:
        self._release(instance, request)
        self._buffer.add(request)
        self._ended.add(request.index)

    def finished(self, instance: Instance, request: Request) -> None:
        self._release(instance, request)
        self._buffer.finished(request)

    def overflow(self, instance: Instance) -> None:
        raise AssertionError(f"instance {instance.index} ran short of KV although every chunk was reserved")

    def failed(self, instance: Instance, orphans: Sequence[Request]) -> Changes:
        """Its chunks begin again from the last boundary: what was there is in the pool, what came after is lost."""
        self._up.remove(self._loads[instance.index])
        lost = {request.index for request in orphans}
        for request in [one for one, at in self._placed.values() if at == instance.index and one.index not in lost]:
            # On its way there, with its KV where it was.
            self._release(instance, request)
            self._buffer.add(request)
        for request in orphans:
            self._counts.lost_tokens += request.tokens - request.joined_tokens
            request.tokens = request.joined_tokens
            request.kv_at = POOL if request.tokens else NOWHERE
            self._release(instance, request)
            self._buffer.add(request)
        return self._schedule(instance.now_s)

    def recovered(self, instance: Instance) -> Changes:
        self._up = [load for load in self._loads if self._instances[int(load.name)].alive]
        return self._schedule(instance.now_s)

    def steps_to_admission(self, instance: Instance) -> int:
        return FOREVER
