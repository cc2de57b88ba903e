"""Who joins the running batch: SGLang's prefill adder, with KV reserved by what is known of lengths.

SGLang reserves min(limit, 4096) x ratio tokens for a request and retracts when that was too few. Here a request joins
when the pool is expected to hold, at a stated risk, until somebody finishes (`sglang_seer.schedule.admission`). All
other limits of SGLang's adder stay: prefill budget, batch size, what fits the pool right now.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sglang.srt.managers.schedule_policy import AddReqResult, PrefillAdder

from sglang_seer.context import Exactly, LengthModel, Remaining
from sglang_seer.engine.requests import RequestStates
from sglang_seer.patches.adapter import line
from sglang_seer.schedule import Load, admit, risk_of
from sglang_seer.status import STATUS


class Admission:
    """What the adders of one scheduler share."""

    def __init__(self, states: RequestStates, lengths: LengthModel, stake: float) -> None:
        """stake: of `schedule.risk_of`, above 0."""
        self._states = states
        self._lengths = lengths
        self._stake = stake

    def risk(self, requests: int) -> float:
        """Chance of an overflow that is taken where so many run."""
        return risk_of(requests, self._stake)

    @property
    def reserve_tokens(self) -> int:
        """KV slots of a request that drafts take besides: SGLang keeps two steps allocated."""
        return 2 * (line.get_spec().speculative_num_draft_tokens or 0)

    def load(self, request: Any, kv_tokens: int) -> Load:
        """The request's future in the pool; kv_tokens: what it holds of the pool, shared prefixes left out."""
        identity = self._states.of(request).identity
        return Load.of(
            kv_tokens,
            self.remaining(request),
            reserve_tokens=self.reserve_tokens,
            chunk_tokens=self._chunk(request),
            group=identity.group if identity is not None else None,
        )

    def running(self, request: Any) -> Load:
        """Of a request that decodes: it gives back what it generated; its prompt may be its siblings' as well."""
        return self.load(request, len(request.output_ids))

    def gives_back(self, request: Any) -> int:
        """KV slots that a request holds now and a load counts: what it generated, and what is allocated ahead."""
        ahead = line.allocated_tokens(request) - len(request.origin_input_ids) - len(request.output_ids)
        return len(request.output_ids) + max(ahead, 0)

    def joined(self, request: Any) -> None:
        """Count what a request costs that comes back after a yield."""
        state = self._states.of(request)
        if state.yielded:
            state.yielded = False
            STATUS.counters["yields_resumed"] += 1
            STATUS.counters["yield_tokens_prefilled"] += line.extend_tokens(request)

    def remaining(self, request: Any) -> Remaining:
        """Tokens that the request still generates."""
        state = self._states.of(request)
        identity = state.identity
        if identity is None or request.sampling_params.ignore_eos:
            return Exactly(max(request.sampling_params.max_new_tokens - len(request.output_ids), 1))
        done = len(request.origin_input_ids) - identity.prompt_tokens + len(request.output_ids)
        done = min(done, identity.limit_tokens - 1)
        return self._lengths.remaining(identity.group, done, identity.limit_tokens, member=state.arrival)

    def _chunk(self, request: Any) -> int | None:
        """Tokens until the request ends as a chunk of a response that goes on elsewhere, None for a whole response."""
        identity = self._states.of(request).identity
        left = max(request.sampling_params.max_new_tokens - len(request.output_ids), 1)
        if identity is None:
            return None
        done = len(request.origin_input_ids) - identity.prompt_tokens + len(request.output_ids)
        return left if done + left < identity.limit_tokens else None


def adder_class(stock: type[PrefillAdder], admission: Admission) -> type[PrefillAdder]:
    """SGLang's class for a scheduler, admitting by lengths."""

    class SeerPrefillAdder(stock):  # type: ignore[misc, valid-type]
        """One prefill pass."""

        _running: list[Load] | None = None
        _held = 0

        def _get_running_request_total_token_offset(self, req: Any) -> int:
            # What running requests will still need is in the loads.
            return 0

        def add_one_req(self, req: Any, has_chunked_req: bool, truncation_align_size: int | None) -> Any:
            if not self._fits(req):
                STATUS.counters["admissions_held_back"] += 1
                return AddReqResult.NO_TOKEN
            with _only_next_steps_reserved(req, admission.reserve_tokens):
                result = super().add_one_req(req, has_chunked_req, truncation_align_size)
            if self.can_run_list and self.can_run_list[-1] is req:
                admission.joined(req)
            return result

        def _fits(self, req: Any) -> bool:
            running = () if self.running_batch is None else self.running_batch.reqs
            if self._running is None:
                self._running = [admission.running(request) for request in running]
                self._held = sum(admission.gives_back(request) for request in running)
            joined = [admission.load(request, line.extend_tokens(request)) for request in self.can_run_list]
            candidate = admission.load(req, line.input_tokens(req))
            capacity = int(self.rem_total_tokens) + self._held + sum(load.kv_tokens for load in joined)
            return capacity > 0 and admit([*self._running, *joined], [candidate], capacity, risk=admission.risk) > 0

    return SeerPrefillAdder


def free_tokens(scheduler: Any) -> int:
    """KV slots that are free, or only cached."""
    cache = scheduler.tree_cache
    return int(scheduler.token_to_kv_pool_allocator.available_size() + cache.evictable_size())


@contextmanager
def _only_next_steps_reserved(request: Any, tokens: int) -> Iterator[None]:
    """SGLang's own reserve for the request is what its next steps need: the rest was looked at."""
    parameters = request.sampling_params
    limit = parameters.max_new_tokens
    parameters.max_new_tokens = min(limit, len(request.output_ids) + max(tokens, 1))
    try:
        yield
    finally:
        parameters.max_new_tokens = limit
