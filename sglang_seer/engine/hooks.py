"""Hooks of a scheduler process. Each takes what SGLang's HookRegistry passes and does as little as possible."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sglang.srt.managers import scheduler as scheduler_module

from sglang_seer.config import SeerConfig, mode_from_environment, parse_config
from sglang_seer.context import ContextLengths, LengthModel
from sglang_seer.draft.budget import tail_priorities
from sglang_seer.engine import takeover
from sglang_seer.engine.admission import Admission, adder_class
from sglang_seer.engine.ends import end_inside_run
from sglang_seer.engine.launch import ALGORITHM, POLICY, STOCK_POLICY, config_of
from sglang_seer.engine.metrics import Metrics, labels_of
from sglang_seer.engine.observer import Observer, would_refuse
from sglang_seer.engine.policy import SeerSchedulePolicy
from sglang_seer.engine.ranks import drafts_here
from sglang_seer.engine.requests import RequestStates
from sglang_seer.engine.sharing import Lengths
from sglang_seer.engine.yields import Yields
from sglang_seer.patches import lines
from sglang_seer.plugin import config_from_environment
from sglang_seer.schedule import Rules
from sglang_seer.status import STATUS

logger = logging.getLogger("sglang_seer")

# A scheduler that makes this many passes without our result hook running has lost it.
_PASSES_BEFORE_HOOK_CHECK = 64


@dataclass(slots=True)
class SchedulerState:
    """Seer's state in a scheduler process. observer: only in observe mode, where nothing else acts."""

    config: SeerConfig
    states: RequestStates
    lengths: LengthModel
    policy: SeerSchedulePolicy
    observer: Observer | None = None
    admission: Admission | None = None
    yields: Yields | None = None
    adder: type | None = None


_state: SchedulerState | None = None
_request_states: RequestStates | None = None
_metrics: Metrics | None = None


def request_states(random_seed: int) -> RequestStates:
    """Request states of this process; the draft worker is built before the policy and shares them."""
    global _request_states
    if _request_states is None:
        _request_states = RequestStates(random_seed)
    return _request_states


def _config_of_scheduler(scheduler: Any) -> SeerConfig | None:
    config = config_of(scheduler.server_args)
    if config is not None:
        return config
    if mode_from_environment() not in ("on", "observe"):
        return None
    # A launcher that built its ServerArgs before plugins were loaded: the environment decides, under the same rules.
    config = parse_config(config_from_environment())
    if mode_from_environment() == "observe":
        return config
    reasons = []
    if scheduler.schedule_policy not in (POLICY, STOCK_POLICY):
        reasons.append(f"SGLANG_SEER is on and the schedule policy is {scheduler.schedule_policy!r}: choose one")
    if scheduler.enable_priority_scheduling:
        reasons.append("priority scheduling orders requests itself: it cannot be combined with Seer")
    if config.speculation and scheduler.spec_algorithm.is_none():
        reasons.append(
            "these server arguments were built without Seer and name no speculative algorithm: "
            f'set {takeover.hint()} in them, or {{"speculation": false}} in SGLANG_SEER_CONFIG'
        )
    if reasons:
        raise RuntimeError("sglang-seer refuses to start: " + "; ".join(reasons))
    return config


def init_schedule_policy(original: Callable[[Any], None], scheduler: Any) -> None:
    """Around `Scheduler.init_schedule_policy`: build the stock policy, then put ours in its place."""
    global _state
    config = _config_of_scheduler(scheduler)
    if config is None:
        original(scheduler)
        _start_metrics(scheduler)
        return
    reasons = lines.unapplied(lines.patch_set_for(STATUS.sglang_version))
    if reasons:
        raise RuntimeError("sglang-seer refuses to start: " + "; ".join(reasons))
    if mode_from_environment() == "observe":
        original(scheduler)
        _observe(scheduler, config)
        _start_metrics(scheduler)
        return
    asked = scheduler.schedule_policy
    scheduler.schedule_policy = "fcfs"
    original(scheduler)
    scheduler.schedule_policy = asked
    states = request_states(scheduler.server_args.random_seed)
    lengths = ContextLengths()
    rules = Rules(starvation_limit=config.starvation_limit)
    scheduler.policy = SeerSchedulePolicy(
        scheduler.policy,
        states,
        lengths,
        rules=rules,
        on_pass=check_hooks_run,
    )
    admission = yields = None
    if _admits(scheduler, config):
        admission = Admission(states, lengths, config.overflow_risk)
        if config.chunk_tokens:
            yields = Yields(scheduler.policy, admission, states, chunk_tokens=config.chunk_tokens, rules=rules)
    _state = SchedulerState(
        config=config, states=states, lengths=lengths, policy=scheduler.policy, admission=admission, yields=yields
    )
    STATUS.config = config
    STATUS.mode = "on"
    STATUS.parts = ["scheduling"]
    if not scheduler.spec_algorithm.is_none() and getattr(scheduler.spec_algorithm, "name", "") == ALGORITHM:
        STATUS.parts.append("speculation")
    logger.warning(
        "seer: %s on SGLang %s: %s; policy asked for: %s; %s",
        STATUS.mode,
        STATUS.sglang_version,
        " and ".join(STATUS.parts),
        asked if asked == POLICY else f"{asked}, replaced by {POLICY}",
        ", ".join(f"{name} = {value}" for name, value in config.shown().items()),
    )
    _start_metrics(scheduler)


def _admits(scheduler: Any, config: SeerConfig) -> bool:
    """Whether lengths decide admission: pools that hold more than one kind of state have limits of another kind."""
    return config.overflow_risk > 0 and not (scheduler.is_hybrid_swa or scheduler.tree_cache.supports_mamba())


def _observe(scheduler: Any, config: SeerConfig) -> None:
    """Watch a stock scheduler. One rank is enough."""
    global _state
    STATUS.config, STATUS.mode, STATUS.parts = config, "observe", []
    reasons = would_refuse(scheduler, config)
    logger.warning(
        "seer: observe on SGLang %s: nothing of it is changed; policy: %s; switched on, Seer %s",
        STATUS.sglang_version,
        scheduler.schedule_policy,
        f"would refuse: {'; '.join(reasons)}" if reasons else "would run",
    )
    if not drafts_here():
        return
    states, lengths = request_states(scheduler.server_args.random_seed), ContextLengths()
    rules = Rules(starvation_limit=config.starvation_limit)
    policy = SeerSchedulePolicy(scheduler.policy, states, lengths, rules=rules)
    admission = Admission(states, lengths, config.overflow_risk) if _admits(scheduler, config) else None
    observer = Observer(scheduler, policy, states, lengths, admission, would_refuse=reasons)
    STATUS.sources["observed"] = observer.status
    _state = SchedulerState(config=config, states=states, lengths=lengths, policy=policy, observer=observer)


def _start_metrics(scheduler: Any) -> None:
    """With --enable-metrics; of a stock engine they say that Seer is off."""
    global _metrics
    labels = labels_of(scheduler)
    if labels is not None:
        _metrics = Metrics(labels, live_status)


def on_idle(_scheduler: Any) -> None:
    """Before `Scheduler.on_idle`: metrics follow what went on after the last step, such as traffic of the bus."""
    if _state is not None and _state.observer is not None:
        with _harmless():
            _state.observer.idle()
    if _state is not None and _metrics is not None:
        _metrics.update()


def process_batch_result(_result: None, scheduler: Any, batch: Any, result: Any) -> None:
    """After `Scheduler.process_batch_result`: learn the lengths and last tokens of finished responses."""
    STATUS.calls["process_batch_result"] += 1
    if _state is None:
        return
    if _state.observer is not None:
        with _harmless():
            for request in _state.observer.begin(batch):
                _learn(_state, request, None)
            _state.observer.end(scheduler, batch)
    else:
        drafts = getattr(scheduler.draft_worker, "drafts", None)
        for request in batch.reqs:
            _learn(_state, request, drafts)
    if _metrics is not None:
        _metrics.update()


@contextmanager
def _harmless() -> Iterator[None]:
    """A stock engine does not die of being watched: an error in here ends the watching, and the status says so."""
    global _state
    try:
        yield
    except Exception as error:
        logger.exception("seer: observing failed and ends here; the engine goes on")
        STATUS.reasons.append(f"observing failed: {type(error).__name__}: {error}")
        STATUS.sources.pop("observed", None)
        _state = None


def _learn(known: SchedulerState, request: Any, drafts: Any) -> None:
    """What a processed batch tells of one of its requests."""
    state, observer = known.states.of(request), known.observer
    if state.finished or state.identity is None:
        return
    if state.expected_tokens is None:
        STATUS.counters["admitted"] += 1
        state.expected_tokens = known.lengths.expected_tokens(state.identity.group, state.identity.limit_tokens)
        if observer is not None:
            observer.joined(request, state)
    # Behind an end inside an accepted run there may be more.
    made = len(request.output_ids) if request.finished_len is None else request.finished_len
    tokens = len(request.origin_input_ids_unpadded) - state.identity.prompt_tokens + made
    if not request.finished():
        known.lengths.progress(state.identity.group, state.arrival, tokens)
        return
    state.finished = True
    reason = request.finished_reason.to_json()["type"]
    if reason == "abort":
        known.lengths.lost(state.identity.group, state.arrival)
        STATUS.counters["aborted"] += 1
        if drafts is not None:
            drafts.drop(request)
        if observer is not None:
            observer.aborted(state)
        return
    limit = state.identity.limit_tokens
    cut = reason == "length" and tokens < limit
    if drafts is not None:
        drafts.finish(request, tokens, whole=not cut)
    if cut and known.states.chunk_ended(request):
        known.lengths.progress(state.identity.group, state.arrival, tokens)
        STATUS.counters["chunks"] += 1
        if observer is not None:
            observer.chunk_ended(state)
        return
    known.lengths.finish(state.identity.group, tokens, member=state.arrival, limit_tokens=limit)
    STATUS.counters["finished"] += 1
    STATUS.counters["estimated_tokens"] += tokens
    STATUS.counters["estimate_error_tokens"] += round(abs(state.expected_tokens - tokens))
    if observer is not None:
        observer.ended(request, state, tokens)


def learn_lengths(lengths: Lengths) -> None:
    """Lengths of siblings that ended on other engines; called at the same step on every rank."""
    if _state is None:
        return
    for group, length in lengths.tolist():
        identity = _state.states.identity_of(group)
        if identity is not None:
            _state.lengths.finish(identity.group, length, limit_tokens=identity.limit_tokens)
            STATUS.counters["finished_elsewhere"] += 1


def get_prefill_adder_class(stock: type, _scheduler: Any) -> type:
    """After `Scheduler.get_prefill_adder_class`: admit by what is known of lengths."""
    if _state is None or _state.admission is None:
        return stock
    if _state.adder is None:
        _state.adder = adder_class(stock, _state.admission)
    return _state.adder


def replace_prefill_adder() -> None:
    """Assign `PrefillAdder` in a scheduler module that has no `Scheduler.get_prefill_adder_class`."""
    if isinstance(scheduler_module.PrefillAdder, type):
        stock = scheduler_module.PrefillAdder

        def make_adder(*arguments: Any, **keywords: Any) -> Any:
            return get_prefill_adder_class(stock, None)(*arguments, **keywords)

        scheduler_module.PrefillAdder = make_adder


def update_running_batch(original: Callable[[Any, Any], Any], scheduler: Any, batch: Any) -> Any:
    """Around `Scheduler.update_running_batch`: requests at the end of a chunk may leave before the batch decodes."""
    if _state is None:
        return original(scheduler, batch)
    if _state.yields is not None:
        _state.yields.before_decode(scheduler, batch)
    waiting = len(scheduler.waiting_queue)
    result = original(scheduler, batch)
    # Nothing else is queued there.
    STATUS.counters["retractions"] += len(scheduler.waiting_queue) - waiting
    return result


def update_finish_state(original: Callable[[Any, int], None], request: Any, new_accepted_len: int = 1) -> None:
    """Around `Req.update_finish_state`: runs end where single tokens would."""
    if _state is None or _state.observer is not None:
        original(request, new_accepted_len)
    else:
        end_inside_run(original, request, new_accepted_len)


def draft_priorities(requests: Sequence[Any]) -> npt.NDArray[np.float64]:
    """[batch]: worth of a token of each request, from what the lengths of finished siblings say about the rest."""
    remaining = np.full(len(requests), np.nan)
    if _state is not None:
        lengths = _state.lengths
        for i, request in enumerate(requests):
            identity = _state.states.of(request).identity
            if identity is not None and lengths.finished(identity.group):
                done = len(request.origin_input_ids) - identity.prompt_tokens + len(request.output_ids)
                remaining[i] = max(lengths.expected_tokens(identity.group, identity.limit_tokens) - done, 0)
    return tail_priorities(remaining)


def flush_cache(success: bool, *_arguments: Any, **_keywords: Any) -> bool:
    """After `Scheduler.flush_cache`: lengths and drafts belong to the weights that made them."""
    if _state is not None and success:
        _state.lengths.clear()
        if _state.observer is not None:
            with _harmless():
                _state.observer.flushed()
        STATUS.counters["flushes"] += 1
    return success


def get_internal_state(output: Any, *_arguments: Any) -> Any:
    """After `get_internal_state`: live counters for /server_info."""
    # Older lines put all attributes of the record there, also those that JSON does not know.
    output.internal_state.pop("_seer_config", None)
    status = live_status()
    if _state is not None and _state.observer is not None:
        with _harmless():
            status["observed"]["record"] = _state.observer.record()
    output.internal_state["sglang_seer"] = status
    return output


def live_status() -> dict[str, Any]:
    """What /server_info and the metrics show."""
    return STATUS.as_dict() if _state is None else {**STATUS.as_dict(), "groups": len(_state.lengths)}


def check_hooks_run() -> None:
    """Raise if SGLang schedules and decodes but our result hook never ran: estimates would silently never change."""
    passes = max(STATUS.calls["verify"], STATUS.calls["calc_priority"])
    if passes > _PASSES_BEFORE_HOOK_CHECK and not STATUS.calls["process_batch_result"]:
        raise RuntimeError(
            "sglang-seer: Scheduler.process_batch_result is patched but was never called: "
            "another plugin or an SGLang change goes around it"
        )
