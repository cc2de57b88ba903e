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
from sglang.srt.runtime_context import get_spec

from sglang_seer.context import Exactly, LengthModel
from sglang_seer.engine.requests import RequestStates
from sglang_seer.schedule import Load, admit
from sglang_seer.status import STATUS


class Admission:
    """What the adders of one scheduler share."""

    def __init__(self, states: RequestStates, lengths: LengthModel, risk: float) -> None:
        """risk: chance of an overflow that is taken with each admission, 0 to 1."""
        self._states = states
        self._lengths = lengths
        self.risk = risk

    @property
    def reserve_tokens(self) -> int:
        """KV slots of a request that drafts take besides: SGLang keeps two steps allocated."""
        return 2 * (get_spec().speculative_num_draft_tokens or 0)

    def load(self, request: Any, kv_tokens: int, *, reserve_tokens: int = 0) -> Load:
        """The request's future in the pool; kv_tokens: what it holds of the pool, shared prefixes left out."""
        identity = self._states.of(request).identity
        if identity is None or request.sampling_params.ignore_eos:
            left = max(request.sampling_params.max_new_tokens - len(request.output_ids), 1)
            return Load.of(kv_tokens, Exactly(left), reserve_tokens=reserve_tokens)
        done = len(request.origin_input_ids) - identity.prompt_tokens + len(request.output_ids)
        remaining = self._lengths.remaining(
            identity.group,
            min(done, identity.limit_tokens - 1),
            identity.limit_tokens,
            member=self._states.of(request).arrival,
        )
        return Load.of(kv_tokens, remaining, reserve_tokens=reserve_tokens)


def adder_class(stock: type[PrefillAdder], admission: Admission) -> type[PrefillAdder]:
    """SGLang's class for a scheduler, admitting by lengths."""

    class SeerPrefillAdder(stock):  # type: ignore[misc, valid-type]
        """One prefill pass."""

        _running: list[Load] | None = None

        def _get_running_request_total_token_offset(self, req: Any) -> int:
            # What running requests will still need is in the loads.
            return 0

        def add_one_req(self, req: Any, has_chunked_req: bool, truncation_align_size: int | None) -> Any:
            if not self._fits(req):
                STATUS.counters["admissions_held_back"] += 1
                return AddReqResult.NO_TOKEN
            with _only_next_steps_reserved(req, admission.reserve_tokens):
                return super().add_one_req(req, has_chunked_req, truncation_align_size)

        def _fits(self, req: Any) -> bool:
            running = () if self.running_batch is None else self.running_batch.reqs
            if self._running is None:
                # A running response gives back what it generated; its prompt may be its siblings' as well.
                self._running = [admission.load(request, len(request.output_ids)) for request in running]
            joined = [admission.load(request, request.extend_len) for request in self.can_run_list]
            candidate = admission.load(req, len(req.full_untruncated_fill_ids), reserve_tokens=admission.reserve_tokens)
            loads = [*self._running, *joined]
            held = sum(load.kv_tokens for load in loads)
            capacity = int(self.rem_total_tokens) + held
            return capacity > 0 and admit(loads, [candidate], capacity, risk=admission.risk) > 0

    return SeerPrefillAdder


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
