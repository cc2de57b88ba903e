"""One engine instance: a batch that decodes step by step, advanced in closed form between changes of the batch.

Requests with the same number of tokens a step form a class. A class has one counter of tokens, and a request that
joined when the counter stood at c with t tokens has t + counter - c: so a step costs the same whatever the size of the
batch, and who ends next is the head of a heap. Composition changes only between two steps, as in a real engine.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from sglang_seer.sim.profile import Profile
from sglang_seer.sim.request import Request

FOREVER = 1 << 60
_EPSILON = 1e-7  # of a token: float error of the counters


class Instance:
    """now_s: the step boundary it stands at. tokens: [draft lengths, classes] expected tokens of a step."""

    def __init__(self, index: int, profile: Profile, tokens: NDArray[np.float64], slow: float = 1.0) -> None:
        if not 0.0 < slow < math.inf:
            raise ValueError(f"slow: got {slow} for instance {index}, wanted a positive factor")
        self.index = index
        self.profile = profile
        self.slow = slow
        self.now_s = 0.0
        self.steps = 0
        self.alive = True
        self.epoch = 0
        self.planned_steps = FOREVER
        self.running: dict[int, Request] = {}
        self.prompts_seen: set[str] = set()
        self.reserved_tokens = 0
        self.draft_tokens = 0
        self.busy_s = 0.0
        self.peak_kv_tokens = 0.0
        self._tokens = tokens
        self._rates = tokens[0].tolist()
        classes = tokens.shape[1]
        self._counts = [0] * classes
        self._counters = [0.0] * classes
        self._bases = [0.0] * classes
        self._heaps: list[list[tuple[float, int, int, Request]]] = [[] for _ in range(classes)]
        self._batch_s = 0.0
        self.growth_tokens = 0.0

    # -- what it holds -----------------------------------------------------------------------------------------------

    @property
    def kv_tokens(self) -> float:
        """Tokens in KV of the running requests, prompts included."""
        used = 0.0
        for count, counter, base in zip(self._counts, self._counters, self._bases, strict=True):
            if count:
                used += base + count * counter
        return used

    @property
    def free_tokens(self) -> float:
        return self.profile.kv_capacity_tokens - self.kv_tokens

    @property
    def most_draft_tokens(self) -> int:
        """Of a request in any step; 0 without speculation."""
        return len(self._tokens) - 1

    @property
    def step_room(self) -> float:
        """KV that the next step may write: one token a request and its whole draft."""
        return len(self.running) * (1 + self.draft_tokens)

    def tokens_of(self, request: Request) -> float:
        """Tokens that a running request has generated."""
        return min(self._counters[request.kind] - request.mark, request.target_tokens)

    def whole_tokens_of(self, request: Request) -> int:
        """Those that it keeps when it leaves."""
        return math.floor(self.tokens_of(request) + _EPSILON)

    # -- changes of the batch ----------------------------------------------------------------------------------------

    def join(self, request: Request, target_tokens: int, kind: int) -> None:
        """Let a request decode until it has `target_tokens`. Raises ValueError if it runs here already."""
        if request.index in self.running:
            raise ValueError(f"request {request.index} runs on instance {self.index} already")
        self.running[request.index] = request
        request.target_tokens = target_tokens
        request.joined_tokens = request.tokens
        self._enter(request, float(request.tokens), kind)

    def leave(self, request: Request) -> int:
        """Take a request out of the batch; returns the tokens made since it joined."""
        made = self.whole_tokens_of(request)
        self._exit(request)
        del self.running[request.index]
        request.tokens = made
        return made - request.joined_tokens

    def change_kind(self, request: Request, kind: int) -> None:
        """More siblings of a running request have finished."""
        if kind != request.kind:
            tokens = self.tokens_of(request)
            self._exit(request)
            self._enter(request, tokens, kind)

    def _enter(self, request: Request, tokens: float, kind: int) -> None:
        request.kind = kind
        request.mark = self._counters[kind] - tokens
        request.ticket += 1
        self._counts[kind] += 1
        self._bases[kind] += request.prompt_tokens - request.mark
        end = request.target_tokens + request.mark
        heappush(self._heaps[kind], (end, request.index, request.ticket, request))

    def _exit(self, request: Request) -> None:
        kind = request.kind
        request.ticket += 1
        self._counts[kind] -= 1
        self._bases[kind] -= request.prompt_tokens - request.mark
        if self._counts[kind] == 0:
            # Empty: start again from 0, so that rounding does not add up.
            self._counters[kind] = self._bases[kind] = 0.0
            self._heaps[kind].clear()

    # -- time --------------------------------------------------------------------------------------------------------

    def plan(self) -> int:
        """Settle the draft length for the present batch; returns steps until a request ends or memory is short."""
        count = len(self.running)
        if count == 0:
            self.growth_tokens = 0.0
            return FOREVER
        step = self.profile.step
        context_s = step.context_s * self.kv_tokens
        options = len(self._tokens)
        if options == 1:
            self._batch_s = step.batch_seconds(count)
        else:
            made = (self._tokens @ np.array(self._counts, dtype=np.float64)).tolist()
            best = 0.0
            for drafted in range(options):
                seconds = step.batch_seconds(count * (1 + drafted))
                if drafted:
                    seconds += step.draft_s + step.draft_request_s * count
                if made[drafted] / (seconds + context_s) > best:
                    best = made[drafted] / (seconds + context_s)
                    self._batch_s, self.draft_tokens = seconds, drafted
            self._rates = self._tokens[self.draft_tokens].tolist()
        self.growth_tokens = sum(n * rate for n, rate in zip(self._counts, self._rates, strict=True))
        return min(self._steps_to_end(), self._steps_to_overflow())

    def _steps_to_end(self) -> int:
        soonest = FOREVER
        for kind, heap in enumerate(self._heaps):
            while heap and heap[0][2] != heap[0][3].ticket:
                heappop(heap)
            if heap:
                left = heap[0][0] - self._counters[kind]
                soonest = min(soonest, max(0, math.ceil((left - _EPSILON) / self._rates[kind])))
        return soonest

    def _steps_to_overflow(self) -> int:
        room = self.free_tokens - self.step_room
        return 0 if room < -_EPSILON else 1 + math.floor((room + _EPSILON) / self.growth_tokens)

    def seconds_of(self, steps: int) -> float:
        """Seconds of the next `steps` steps of the batch as it is."""
        context = steps * self.kv_tokens + self.growth_tokens * steps * (steps - 1) / 2.0
        return self.slow * (steps * self._batch_s + self.profile.step.context_s * context)

    def advance(self, steps: int) -> None:
        """Run `steps` steps."""
        if steps == 0:
            return
        seconds = self.seconds_of(steps)
        self.now_s += seconds
        self.busy_s += seconds
        self.steps += steps
        for kind, count in enumerate(self._counts):
            if count:
                self._counters[kind] += steps * self._rates[kind]
        self.peak_kv_tokens = max(self.peak_kv_tokens, self.kv_tokens)

    def catch_up(self, time_s: float) -> None:
        """Run to the first step boundary at or after `time_s`, at most as many steps as were planned."""
        if not self.running:
            self.now_s = max(self.now_s, time_s)
            return
        if self.now_s >= time_s:
            return
        context_s = self.profile.step.context_s
        slope = self._batch_s + context_s * (self.kv_tokens - self.growth_tokens / 2.0)
        bend = context_s * self.growth_tokens / 2.0
        wanted = (time_s - self.now_s) / self.slow
        # wanted = slope * steps + bend * steps^2, written so that a bend of 0 divides by nothing.
        exact = 2.0 * wanted / (slope + math.sqrt(slope * slope + 4.0 * bend * wanted))
        steps = min(max(1, math.ceil(exact - 1e-9)), self.planned_steps)
        self.advance(steps)
        self.planned_steps -= steps

    def stall(self, seconds: float) -> None:
        """Time in which nothing is decoded: a prefill."""
        self.now_s += self.slow * seconds
        self.busy_s += self.slow * seconds

    def pop_ended(self) -> list[Request]:
        """Take out the requests that reached their targets, in order of the request."""
        ended = []
        for kind, heap in enumerate(self._heaps):
            while heap and (heap[0][2] != heap[0][3].ticket or heap[0][0] <= self._counters[kind] + _EPSILON):
                _, _, ticket, request = heappop(heap)
                if ticket == request.ticket:
                    ended.append(request)
        ended.sort(key=lambda request: request.index)
        return ended
