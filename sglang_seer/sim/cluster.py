"""A rollout on a cluster, event by event.

Events are what changes a batch: a request is asked for, it finishes, its chunk ends, KV runs short, a waiting request
fits, KV arrives over the link, an instance fails or comes back. Between them an instance advances in closed form. Ties
are broken by the order in which events were planned, so a run depends on its inputs alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from sglang_seer.schedule.placement import PlacementRules
from sglang_seer.sim.acceptance import NO_SPECULATION, Acceptance
from sglang_seer.sim.dispatch import Dispatch, Divided, Stock
from sglang_seer.sim.instance import FOREVER, Instance
from sglang_seer.sim.policy import Drafts, Policy
from sglang_seer.sim.profile import Profile
from sglang_seer.sim.request import Request
from sglang_seer.sim.result import Counts, Result, Sample

SAMPLES = 400
_STEP, _ARRIVE, _FAIL, _RECOVER, _ASKED = range(5)


@dataclass(frozen=True, slots=True)
class Failure:
    """Instance `instance` loses its GPU memory at `at_s` and is back `repair_s` later."""

    instance: int
    at_s: float
    repair_s: float

    def __post_init__(self) -> None:
        if self.instance < 0 or not 0.0 <= self.at_s < float("inf") or not 0.0 <= self.repair_s < float("inf"):
            raise ValueError(f"failure: got {self}, wanted an instance from 0 and finite times from 0")


@dataclass(frozen=True, slots=True)
class Cluster:
    """slow: factor on the time of single instances (stragglers). chunk_tokens: longest chunk of divided rollout.
    placement: of its chunks, the rollout controller's rule."""

    profile: Profile
    instances: int
    chunk_tokens: int = 2048
    placement: PlacementRules = field(default_factory=PlacementRules)
    acceptance: Acceptance = field(default_factory=lambda: Acceptance({0: 1.0}))
    slow: dict[int, float] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        if self.instances < 1:
            raise ValueError(f"instances: got {self.instances}, wanted at least 1")
        if self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens: got {self.chunk_tokens}, wanted at least 1")
        for place in (*self.slow, *(failure.instance for failure in self.failures)):
            if not 0 <= place < self.instances:
                raise ValueError(f"slow, failures: got instance {place}, wanted 0 to {self.instances - 1}")


def simulate(
    cluster: Cluster, policy: Policy, requests: Sequence[Request], *, stop_after_groups: int | None = None
) -> Result:
    """Run the requests to their ends, or until all requests of `stop_after_groups` groups are done.

    The requests are changed: they carry their tokens and finish times. Raises ValueError for requests that no instance
    can hold, for none at all, and for indices or orders that are not 0, 1, 2, ...
    """
    groups = len({request.group for request in requests})
    if stop_after_groups is not None and not 1 <= stop_after_groups <= groups:
        raise ValueError(f"stop_after_groups: got {stop_after_groups}, wanted 1 to {groups}")
    return _Run(cluster, policy, requests).until(groups if stop_after_groups is None else stop_after_groups)


class _Run:
    def __init__(self, cluster: Cluster, policy: Policy, requests: Sequence[Request]) -> None:
        _check(cluster, requests)
        self.cluster = cluster
        self.policy = policy
        self.requests = requests
        speculates = policy.drafts is not Drafts.NONE
        tokens = cluster.acceptance.tokens if speculates else NO_SPECULATION
        self.instances = [
            Instance(place, cluster.profile, tokens, cluster.slow.get(place, 1.0)) for place in range(cluster.instances)
        ]
        self.counts = Counts()
        self.dispatch: Dispatch = (
            Divided(cluster, policy, self.instances, self.counts)
            if policy.divided
            else Stock(policy, self.instances, self.counts, self._kind)
        )
        self.events: list[tuple[float, int, int, int, object]] = []
        self.planned = 0
        self.done: list[Request] = []
        self.unfinished = Counter(request.group for request in requests if request.remaining_tokens)
        self.groups_done = len({request.group for request in requests}) - len(self.unfinished)
        self.finished_siblings: Counter[str] = Counter()
        self.members: dict[str, list[Request]] = {}
        if policy.drafts is Drafts.GROUP:
            for request in requests:
                self.members.setdefault(request.group, []).append(request)
        self.samples: list[Sample] = []
        self.sample_every = max(1, len(requests) // SAMPLES)

    def until(self, groups: int) -> Result:
        for failure in self.cluster.failures:
            self._push(failure.at_s, _FAIL, failure.instance, failure)
        unfinished = [request for request in self.requests if request.remaining_tokens]
        for request in unfinished:
            if request.arrives_s > 0.0:
                self._push(request.arrives_s, _ASKED, 0, request)
        self._apply(self.dispatch.start(unfinished), 0.0)
        end_s = 0.0
        while self.groups_done < groups:
            assert self.events, "nothing is left to happen and requests wait"
            time_s, _, what, place, payload = heappop(self.events)
            instance = self.instances[place]
            if what == _STEP:
                if payload != instance.epoch:
                    continue
                end_s = time_s
                self._step(instance)
            elif what == _ARRIVE:
                assert isinstance(payload, Request)
                self._arrive(instance, payload, time_s)
            elif what == _ASKED:
                assert isinstance(payload, Request)
                self._apply(self.dispatch.ask(payload), time_s)
            elif what == _FAIL:
                assert isinstance(payload, Failure)
                self._fail(instance, payload, time_s)
            else:
                instance.alive = True
                instance.now_s = max(instance.now_s, time_s)
                self._apply(self.dispatch.recovered(instance), time_s)
        for instance in self.instances:
            # Stopped early: what runs keeps what it has.
            for request in list(instance.running.values()):
                self.counts.generated_tokens += instance.leave(request)
        return Result(
            seconds=end_s,
            finish_s=[request.finished_s for request in self.done],
            tokens=sum(request.length_tokens for request in self.done),
            counts=self.counts,
            busy_s=[instance.busy_s for instance in self.instances],
            peak_kv_tokens=max(instance.peak_kv_tokens for instance in self.instances),
            samples=self.samples,
        )

    def _push(self, time_s: float, what: int, place: int, payload: object) -> None:
        self.planned += 1
        heappush(self.events, (time_s, self.planned, what, place, payload))

    def _replan(self, instance: Instance) -> None:
        instance.epoch += 1
        steps = min(instance.plan(), self.dispatch.steps_to_admission(instance))
        instance.planned_steps = steps
        if steps < FOREVER:
            self._push(instance.now_s + instance.seconds_of(steps), _STEP, instance.index, instance.epoch)

    def _apply(self, changed: Sequence[tuple[Instance, Request | None, float]], time_s: float) -> None:
        """Bring placed requests on their way, and plan every changed instance again."""
        touched: dict[int, Instance] = {}
        for instance, request, arrives_s in changed:
            if request is not None and arrives_s > time_s:
                self._push(arrives_s, _ARRIVE, instance.index, request)
                continue
            touched[instance.index] = instance
            instance.catch_up(time_s)
            if request is not None:
                self.dispatch.begin(instance, request, self._kind(request))
        for instance in touched.values():
            self._replan(instance)

    def _arrive(self, instance: Instance, request: Request, time_s: float) -> None:
        if not self.dispatch.expected(instance, request):
            return  # its instance failed meanwhile
        self._apply([(instance, request, time_s)], time_s)

    def _step(self, instance: Instance) -> None:
        instance.advance(instance.planned_steps)
        instance.planned_steps = 0
        changed: list[tuple[Instance, Request | None, float]] = [(instance, None, 0.0)]
        for request in instance.pop_ended():
            self.counts.generated_tokens += instance.leave(request)
            if request.remaining_tokens:
                self.dispatch.chunk_ended(instance, request)
                continue
            request.finished_s = instance.now_s
            self.done.append(request)
            self.unfinished[request.group] -= 1
            self.groups_done += self.unfinished[request.group] == 0
            self.dispatch.finished(instance, request)
            changed += self._sibling_finished(request, instance.now_s)
            if len(self.done) % self.sample_every == 0:
                self._sample(instance.now_s)
        if instance.running and instance.free_tokens < instance.step_room:
            self.dispatch.overflow(instance)
        changed += self.dispatch.admit(instance)
        self._apply(changed, instance.now_s)

    def _kind(self, request: Request) -> int:
        if self.policy.drafts is not Drafts.GROUP:
            return 0
        return self.cluster.acceptance.class_of(self.finished_siblings[request.group])

    def _sibling_finished(self, request: Request, time_s: float) -> list[tuple[Instance, Request | None, float]]:
        """Running siblings are drafted for better from now on."""
        if self.policy.drafts is not Drafts.GROUP:
            return []
        before = self._kind(request)
        self.finished_siblings[request.group] += 1
        after = self._kind(request)
        members = self.members[request.group]
        members[:] = [member for member in members if member.remaining_tokens]
        changed: list[tuple[Instance, Request | None, float]] = []
        if before == after:
            return changed
        for member in members:
            if member.kv_at < 0:
                continue
            instance = self.instances[member.kv_at]
            if member.index in instance.running:
                instance.catch_up(time_s)
                instance.change_kind(member, after)
                changed.append((instance, None, 0.0))
        return changed

    def _fail(self, instance: Instance, failure: Failure, time_s: float) -> None:
        if not instance.alive:
            return
        instance.catch_up(time_s)
        instance.alive = False
        instance.epoch += 1
        instance.prompts_seen.clear()
        self.counts.failures += 1
        orphans = list(instance.running.values())
        for request in orphans:
            self.counts.generated_tokens += instance.leave(request)
        self._push(time_s + failure.repair_s, _RECOVER, instance.index, None)
        self._apply(self.dispatch.failed(instance, orphans), time_s)

    def _sample(self, time_s: float) -> None:
        running = sum(len(instance.running) for instance in self.instances)
        used = sum(instance.kv_tokens for instance in self.instances)
        capacity = self.cluster.profile.kv_capacity_tokens * len(self.instances)
        left = len(self.requests) - len(self.done) - running
        self.samples.append(Sample(time_s, running, left, used / capacity))


def _check(cluster: Cluster, requests: Sequence[Request]) -> None:
    if not requests:
        raise ValueError("requests: got none, wanted at least one")
    for number, request in enumerate(requests):
        if request.index != number:
            raise ValueError(f"requests: got index {request.index} at place {number}, wanted 0, 1, 2, ...")
        longest = request.prompt_tokens + request.limit_tokens
        if longest + cluster.acceptance.longest + 1 > cluster.profile.kv_capacity_tokens:
            raise ValueError(
                f"requests: request {number} can grow to {longest} tokens, wanted at most the KV capacity of an "
                f"instance, {cluster.profile.kv_capacity_tokens}, less a draft"
            )
