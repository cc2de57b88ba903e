"""Observe mode: what a stock engine does, and what Seer would have done, at a bounded cost.

Nothing of SGLang's is replaced. After each batch the observer times the step and notes who joined and who ended; that
much is always done. What costs more is done for a fixed share of the time: asking for Seer's order of the queue, asking
its admission about requests that SGLang has just let in, and replaying responses that ended against drafts from their
siblings. `/server_info` shows what that took, as `observed.cost_share`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sglang_seer.config import SeerConfig
from sglang_seer.context import LengthModel
from sglang_seer.draft.step_time import StepObservation, StepTimes
from sglang_seer.engine.admission import Admission, free_tokens
from sglang_seer.engine.algorithm import refusal_reasons
from sglang_seer.engine.policy import SeerSchedulePolicy
from sglang_seer.engine.requests import RequestState, RequestStates
from sglang_seer.observe.allowance import Allowance
from sglang_seer.observe.record import Record, encode
from sglang_seer.observe.sibling_drafts import SiblingDrafts
from sglang_seer.observe.windows import Windows
from sglang_seer.patches.adapter import line
from sglang_seer.schedule import admit
from sglang_seer.status import STATUS

ORDER_SHARE, ADMISSION_SHARE, DRAFT_SHARE = 0.002, 0.001, 0.002
# One look at the replay; while the engine has nothing to do a longer one.
DRAFT_SLICE_S, IDLE_SLICE_S = 0.0002, 0.005
# Groups of a window whose responses are replayed: those that come first, whatever their lengths.
DRAFTED_GROUPS = 8
# Steps are timed one by one at first, then some of them.
TIMED_STEPS, TIMED_EVERY = 256, 8
_HEALTH_CHECK = "HEALTH_CHECK"


class Observer:
    """Of one scheduler process."""

    def __init__(
        self,
        scheduler: Any,
        policy: SeerSchedulePolicy,
        states: RequestStates,
        lengths: LengthModel,
        admission: Admission | None,
        *,
        would_refuse: list[str],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """policy: never the scheduler's own, only asked. admission: None where Seer would leave SGLang's alone.

        would_refuse: what Seer would refuse if it were switched on here.
        """
        self._policy = policy
        self._states = states
        self._lengths = lengths
        self._admission = admission
        self._would_refuse = would_refuse
        self._clock = clock
        self._stock_policy = str(scheduler.schedule_policy)
        self._speculation = None if scheduler.spec_algorithm.is_none() else str(scheduler.spec_algorithm.name)
        self._capacity = int(scheduler.max_total_num_tokens)
        self._max_running = int(scheduler.max_running_requests)
        self._windows = Windows()
        self._times = StepTimes()
        self._drafts = SiblingDrafts(scheduler.model_config.vocab_size)
        self._drafted_window = 0
        self._orders, self._admissions, self._replays = (
            Allowance(share, clock) for share in (ORDER_SHARE, ADMISSION_SHARE, DRAFT_SHARE)
        )
        self._last_s: float | None = None
        self._began_s = 0.0
        self._steps = 0
        self._busy_s = self._spent_s = 0.0

    def begin(self, batch: Any) -> list[Any]:
        """A batch's result was processed. Returns the requests of which there is news: new ones, and those that end."""
        self._began_s = self._clock()
        if self._last_s is not None:
            self._busy_s += self._began_s - self._last_s
            self._time_step(batch, self._began_s - self._last_s)
        return self._states.with_news(batch.reqs)

    def joined(self, request: Any, state: RequestState) -> None:
        """A request has its first token."""
        if state.identity is None or str(request.rid).startswith(_HEALTH_CHECK):
            return
        arrived_s = float(getattr(request.time_stats, "wait_queue_entry_time", 0.0))
        self._windows.joined(
            state,
            state.identity.group,
            prompt_tokens=state.identity.prompt_tokens,
            limit_tokens=state.identity.limit_tokens,
            arrived_s=min(arrived_s or self._began_s, self._began_s),
            now_s=self._began_s,
        )
        if self._windows.number != self._drafted_window:
            self._drafted_window = self._windows.number
            self._drafts.forget()

    def ended(self, request: Any, state: RequestState, tokens: int) -> None:
        """A response has ended, with so many tokens."""
        group = self._windows.ended(state, tokens, retractions=request.retraction_count, now_s=self._began_s)
        if group is not None and group < DRAFTED_GROUPS and state.identity is not None:
            text = [*request.origin_input_ids_unpadded, *request.output_ids]
            prompt = state.identity.prompt_tokens
            self._drafts.add(group, text[:prompt], text[prompt:])

    def aborted(self, state: RequestState) -> None:
        """A request ended without a length."""
        self._windows.aborted(state, self._began_s)

    def chunk_ended(self, state: RequestState) -> None:
        """Its response goes on in another request."""
        self._windows.chunk_ended(state, self._began_s)

    def end(self, scheduler: Any, batch: Any) -> None:
        """The news were learnt: look at what Seer would do, as far as there is time for it."""
        if scheduler.waiting_queue and self._orders.open:
            self._orders.spend(lambda: self._compare_order(scheduler))
        if self._admission is not None and batch.forward_mode.is_extend() and self._admissions.open:
            admission = self._admission
            self._admissions.spend(lambda: _judge_admission(scheduler, batch, admission))
        if not self._drafts.idle and self._replays.open:
            self._replays.spend(lambda: self._drafts.work(DRAFT_SLICE_S, self._clock))
        self._last_s = self._began_s
        self._spent_s += self._clock() - self._began_s

    def idle(self) -> None:
        """The engine has nothing to do."""
        if self._last_s is not None:
            self._last_s = None
            # It still holds those that waited when it was asked last.
            self._policy.decision([], None)
        if not self._drafts.idle:
            self._drafts.work(IDLE_SLICE_S, self._clock)

    def flushed(self) -> None:
        """New weights, or the caller says so: a rollout has ended."""
        self._windows.close()

    def status(self) -> dict[str, Any]:
        """In short; the whole is `record`."""
        *_, present = self._windows.shown()
        return {
            "cost_share": self._spent_s / self._busy_s if self._busy_s else 0.0,
            "busy_s": self._busy_s,
            "windows": self._windows.number,
            "responses": len(present.responses),
            "timed_steps": self._times.num_observations,
            "replayed_steps": sum(one.steps for one in self._drafts.counts()),
            "replays_left_out": self._drafts.left_out,
            "would_refuse": self._would_refuse,
        }

    def record(self) -> str:
        """What the doctor predicts from."""
        return encode(
            Record(
                policy=self._stock_policy,
                speculation=self._speculation,
                kv_capacity_tokens=self._capacity,
                max_running=self._max_running,
                windows=list(self._windows.shown()),
                steps=self._times.typical_steps(),
                drafts=self._drafts.counts(),
            )
        )

    def _time_step(self, batch: Any, seconds: float) -> None:
        """From the batch before to this one there was this one alone."""
        self._steps += 1
        mode = batch.forward_mode
        if mode.is_decode():
            if self._steps > TIMED_STEPS and self._steps % TIMED_EVERY:
                return
            rows = len(batch.reqs)
        else:
            # A copy of the batch may not have them.
            extended = getattr(batch, "extend_lens", None)
            if mode.is_mixed() or not mode.is_extend() or not extended:
                return
            rows = max(sum(extended), len(batch.reqs))
        if rows and seconds > 0.0:
            context = sum(len(request.origin_input_ids) + len(request.output_ids) for request in batch.reqs)
            self._times.observe([StepObservation(batch=len(batch.reqs), rows=rows, context=context, seconds=seconds)])

    def _compare_order(self, scheduler: Any) -> None:
        running = scheduler.running_batch
        for request in running.reqs:
            state = self._states.of(request)
            if state.identity is not None and not request.finished():
                done = len(request.origin_input_ids_unpadded) - state.identity.prompt_tokens + len(request.output_ids)
                self._lengths.progress(state.identity.group, state.arrival, done)
        decision = self._policy.decision(scheduler.waiting_queue, running)
        stock = [request for request in scheduler.waiting_queue if self._states.of(request).identity is not None]
        STATUS.counters["decisions"] += 1
        STATUS.counters["reordered"] += [entry.handle for entry in decision.order] != stock


def _judge_admission(scheduler: Any, batch: Any, admission: Admission) -> None:
    """Count how many of a batch that was prefilled Seer would have kept waiting."""
    joined = [request for request in batch.reqs if not request.finished()]
    if not joined:
        return
    names = set(map(id, joined))
    running = [one for one in scheduler.running_batch.reqs if id(one) not in names and not one.finished()]
    holds = [len(request.origin_input_ids) + len(request.output_ids) for request in joined]
    capacity = free_tokens(scheduler) + sum(map(admission.gives_back, running)) + sum(holds)
    candidates = [admission.load(request, tokens) for request, tokens in zip(joined, holds, strict=True)]
    fitting = admit([admission.running(one) for one in running], candidates, capacity, risk=admission.risk)
    STATUS.counters["admissions_judged"] += len(joined)
    STATUS.counters["admissions_it_would_delay"] += len(joined) - fitting


def would_refuse(scheduler: Any, config: SeerConfig) -> list[str]:
    """Why Seer would not start with this scheduler's arguments."""
    reasons = []
    if scheduler.enable_priority_scheduling:
        reasons.append("--enable-priority-scheduling orders requests itself")
    if config.speculation and scheduler.spec_algorithm.is_none():
        reasons += refusal_reasons(scheduler.server_args) + line.speculation_reasons(scheduler.server_args)
    return reasons
