"""A running request makes room for a better one at the end of its chunk: divided rollout inside one engine.

Its KV goes to the prefix cache as that of a finished request would, so that it starts again with one token to prefill
unless somebody needed the room. Nothing happens while whoever waits can join anyway, or nobody waits.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.disaggregation.utils import DisaggregationMode

from sglang_seer.engine.admission import Admission, free_tokens
from sglang_seer.engine.logits import takes_plain_path
from sglang_seer.engine.policy import SeerSchedulePolicy
from sglang_seer.engine.requests import RequestStates
from sglang_seer.patches.adapter import line
from sglang_seer.schedule import Rules, admit, reason_to_yield
from sglang_seer.status import STATUS


class Yields:
    """The chunk boundaries of one scheduler."""

    def __init__(
        self,
        policy: SeerSchedulePolicy,
        admission: Admission,
        states: RequestStates,
        *,
        chunk_tokens: int,
        rules: Rules,
    ) -> None:
        """chunk_tokens: generated tokens between two boundaries, at least 1."""
        self._policy = policy
        self._admission = admission
        self._states = states
        self._chunk_tokens = chunk_tokens
        self._rules = rules

    def before_decode(self, scheduler: Any, batch: Any) -> None:
        """Take requests out of the batch that is about to decode, and queue them again."""
        ended = [place for place, request in enumerate(batch.reqs) if self._ends_chunk(request)]
        if not ended or not batch.batch_is_full or not scheduler.waiting_queue:
            return
        if scheduler.disaggregation_mode != DisaggregationMode.NULL or scheduler.chunked_req is not None:
            return
        finishing = set(map(id, line.finishing_in_flight(scheduler, batch)))
        decision = self._policy.decision(scheduler.waiting_queue, batch)
        loads = {place: self._admission.running(request) for place, request in enumerate(batch.reqs)}
        capacity = sum(map(self._admission.gives_back, batch.reqs)) + free_tokens(scheduler)
        leaving: dict[int, str] = {}
        for place in ended:
            request = batch.reqs[place]
            if id(request) in finishing or not may_yield(request):
                continue
            remaining = self._admission.remaining(request)
            reason = reason_to_yield(decision, remaining, room=len(leaving), rules=self._rules)
            if reason is None:
                continue
            best = decision.order[len(leaving)].handle
            load = loads.pop(place)
            candidate = self._admission.load(best, len(best.origin_input_ids) + len(best.output_ids))
            # Its place alone is no use to a request that the pool cannot take.
            if admit(list(loads.values()), [candidate], capacity, risk=self._admission.risk):
                loads[place] = candidate
                leaving[place] = reason
            else:
                loads[place] = load
        if leaving:
            self._leave(scheduler, batch, leaving)

    def _ends_chunk(self, request: Any) -> bool:
        """Whether it crossed a boundary since the last look."""
        state = self._states.of(request)
        chunk = len(request.output_ids) // self._chunk_tokens
        crossed = chunk > state.chunk
        state.chunk = chunk
        return crossed and state.identity is not None and not request.finished()

    def _leave(self, scheduler: Any, batch: Any, leaving: dict[int, str]) -> None:
        requests = [batch.reqs[place] for place in leaving]
        for request in requests:
            line.release_to_cache(request, scheduler.tree_cache)
            request.reset_for_retract()
            # It was not retracted: nothing is computed again.
            request.retraction_count -= 1
            # Only output log-probabilities are wanted (`may_yield`), and those are there already.
            request.logprob_start_len = -1
            self._states.of(request).yielded = True
        batch.filter_batch(keep_indices=[place for place in range(len(batch.reqs)) if place not in leaving])
        for request in requests:
            scheduler._add_request_to_queue(request, is_retracted=True)
        batch.batch_is_full = False
        for reason in leaving.values():
            STATUS.first("yields", "the first request yields at the end of its chunk: %s", reason)


def may_yield(request: Any) -> bool:
    """Whether a request can leave and come back without a trace in its answer."""
    input_logprobs = request.return_logprob and 0 <= request.logprob_start_len < len(request.origin_input_ids)
    return not (
        input_logprobs
        or takes_plain_path(request)
        or request.session is not None
        or getattr(request, "beam_group", None) is not None
        or request.multimodal_inputs is not None
        or request.input_embeds is not None
        or request.return_hidden_states
        or request.return_routed_experts
    )
