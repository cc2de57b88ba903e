"""Stock engines: each instance has its own queue, SGLang's admission and SGLang's retraction.

    admitted      the queue's head fits if its own KV and min(limit - generated, 4096) tokens are free beside
                  ratio * min(limit - generated, 4096) for every running request
    ratio         falls from 0.7 to 0.098 over 600 steps; after a retraction it is set from the batch
    retracted     fewest generated tokens first, until the next step fits; their KV is gone, they queue up again

Source: SGLang 0.5.23, schedule_policy.py (PrefillAdder), new_token_ratio_tracker.py, schedule_batch.py
(_get_decode_retraction_order); default values of its environment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from sglang_seer.sim.instance import FOREVER, Instance
from sglang_seer.sim.policy import Order, Placement
from sglang_seer.sim.request import NOWHERE, Request

INIT_RATIO = 0.7
MIN_RATIO = 0.7 * 0.14
DECAY_STEPS = 600
RETRACT_STEPS = 20
CLIP_TOKENS = 4096
_DECAY = (INIT_RATIO - MIN_RATIO) / DECAY_STEPS


class StockQueue:
    """The queue of one instance."""

    def __init__(self, instance: Instance, order: Order) -> None:
        self.instance = instance
        self._order = order
        self.waiting: deque[Request] = deque()
        self._ratio, self._ratio_step = INIT_RATIO, 0

    def ratio(self, steps_ahead: int = 0) -> float:
        """The new-token ratio, so many steps from now."""
        passed = self.instance.steps + steps_ahead - self._ratio_step
        return max(MIN_RATIO, self._ratio - _DECAY * passed)

    def put(self, request: Request) -> None:
        self.waiting.append(request)

    def finished(self, request: Request) -> None:
        """A request of this engine ended: stock learns nothing from it."""

    def take_all(self, orphans: Sequence[Request]) -> list[Request]:
        """Empty the queue; orphans: those that ran."""
        taken = list(self.waiting)
        self.waiting.clear()
        return taken

    def _queue_again(self, request: Request) -> None:
        self.waiting.append(request)

    def waits(self) -> bool:
        """Whether anybody waits."""
        return bool(self.waiting)

    def sort(self) -> None:
        """Order the queue; by arrival it stays as it is, as retracted requests go to its end."""
        if self._order is Order.LIMIT:
            self.waiting = deque(sorted(self.waiting, key=lambda request: -request.limit_tokens))
        elif self._order is Order.ORACLE:
            self.waiting = deque(sorted(self.waiting, key=lambda request: -request.remaining_tokens))

    def admit(self) -> list[Request]:
        """Take those that may run now off the queue's head. They have joined the instance's batch; KV is to be made."""
        admitted: list[Request] = []
        if not self.waiting:
            return admitted
        room = self._room()
        while self.waiting and len(self.instance.running) < self.instance.profile.max_running:
            request = self.waiting[0]
            clipped = _clipped(request, request.tokens)
            need = request.kv_tokens + clipped
            # An idle engine takes what fits at all: there is nobody to wait for.
            alone = not self.instance.running and request.kv_tokens < self.instance.free_tokens
            if need >= room and not alone:
                break
            self.waiting.popleft()
            self.instance.join(request, request.length_tokens, 0)
            admitted.append(request)
            room -= need
        return admitted

    def _room(self) -> float:
        return self.instance.free_tokens - self.ratio() * self._clipped_running()

    def _clipped_running(self) -> float:
        running = self.instance.running.values()
        return sum(_clipped(request, self.instance.tokens_of(request)) for request in running)

    def steps_to_admission(self) -> int:
        """Steps until the falling ratio alone lets the queue's head in; to be called after plan()."""
        if not self.waiting or not self.instance.running:
            return FOREVER
        if len(self.instance.running) >= self.instance.profile.max_running:
            return FOREVER
        clipped = self._clipped_running()
        head = self.waiting[0]
        missing = head.kv_tokens + _clipped(head, head.tokens) - (self.instance.free_tokens - self.ratio() * clipped)
        gain = _DECAY * clipped - self.instance.growth_tokens
        if gain <= 0.0:
            return FOREVER
        steps = max(1, int(missing / gain) + 1)
        return steps if self.ratio() - _DECAY * steps >= MIN_RATIO else FOREVER

    def retract(self) -> list[Request]:
        """Take requests off the batch until the next step fits, at least one, and put them at the queue's end."""
        instance = self.instance
        order = sorted(
            instance.running.values(),
            key=lambda request: (instance.tokens_of(request), -request.prompt_tokens, request.index),
            reverse=True,
        )
        retracted: list[Request] = []
        while len(order) > 1 and (not retracted or instance.free_tokens < instance.step_room):
            retracted.append(order.pop())
            instance.leave(retracted[-1])
        for request in retracted:
            request.kv_at = NOWHERE
            request.retractions += 1
            self._queue_again(request)
        decoded = sum(instance.tokens_of(request) for request in order)
        limits = sum(request.limit_tokens for request in order)
        self._ratio = min(1.0, (decoded + RETRACT_STEPS * len(order)) / (limits + 1))
        self._ratio_step = instance.steps
        return retracted


def _clipped(request: Request, tokens: float) -> float:
    return min(request.limit_tokens - tokens, CLIP_TOKENS)


def assigned(requests: list[Request], instances: int, placement: Placement) -> list[int]:
    """The instance of each request."""
    if placement is Placement.REQUESTS:
        return [number % instances for number in range(len(requests))]
    groups: dict[str, list[Request]] = {}
    for request in requests:
        groups.setdefault(request.group, []).append(request)
    if placement is Placement.GROUPS:
        at = {group: number % instances for number, group in enumerate(groups)}
        return [at[request.group] for request in requests]
    # Buckets: groups sorted by true length, cut where each instance has its share of the tokens.
    tokens = {group: sum(request.remaining_tokens for request in members) for group, members in groups.items()}
    share = sum(tokens.values()) / instances
    at, before = {}, 0.0
    for group in sorted(groups, key=lambda group: -tokens[group] / len(groups[group])):
        at[group] = min(int((before + tokens[group] / 2) / share), instances - 1)
        before += tokens[group]
    return [at[request.group] for request in requests]
