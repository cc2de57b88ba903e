"""What Seer would have made of a window: the observed requests, simulated in stock order and in Seer's.

Both run on the same engine: step times fitted to those that were measured, the engine's own KV pool and batch limit.
The simulation of stock against what was observed says how far the model is off; rollouts drawn anew from the observed
groups say how much the answer depends on which prompts there were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from sglang_seer.observe.record import Record, Response, Window
from sglang_seer.sim.acceptance import PAPER_LONGEST_DRAFT, Acceptance
from sglang_seer.sim.cluster import Cluster, simulate
from sglang_seer.sim.policy import POLICIES, Policy
from sglang_seer.sim.profile import Profile, StepPoint, StepTime, fit
from sglang_seer.sim.request import Request
from sglang_seer.sim.result import Result, tail_seconds

LEAST_RESPONSES = 16
LEAST_SIZES = 3
LEAST_DRAFT_STEPS = 64
MOST_CHUNKS = 0.1
# Stock schedule policies that the simulator has.
SIMULATED = ("fcfs", "lof")
ORDERED, DRAFTED = "seer-engine", "seer-engine-spec"
# Rollouts drawn anew, fewer where one has many requests.
MOST_DRAWS, DRAWN_REQUESTS = 8, 12_000
_STEP_ROOM = PAPER_LONGEST_DRAFT + 1


@dataclass(frozen=True, slots=True)
class Spread:
    """lowest and highest over rollouts drawn anew."""

    value: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A simulated rollout. Ratios are over the simulated stock: throughput above 1 and tail below 1 are gains; tail is
    None where stock has none."""

    seconds: float
    tail_s: float
    retractions: int
    throughput: Spread
    tail: Spread | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """outcomes: by policy of the simulator, stock's first. model_error: simulated over observed seconds of stock, less
    1. draft_tokens: mean tokens of a step by finished siblings, empty where too little was replayed."""

    observed_s: float
    observed_tail_s: float
    observed_retractions: int
    model_error: float
    outcomes: dict[str, Outcome]
    draft_tokens: dict[int, float]
    draws: int
    assumptions: list[str]


def tail_share(window: Window) -> float:
    """Of the window's time, that in which only the last 10% of its responses ran. Raises ValueError for none."""
    seconds, tail_s = _times(window.responses)
    return tail_s / seconds


def choose(record: Record) -> Window | str:
    """The newest window that tells enough, or what is missing."""
    reasons = [reason for window in reversed(record.windows) if (reason := _too_little(window))]
    if len(reasons) == len(record.windows):
        return reasons[0] if reasons else "nothing was seen"
    return next(window for window in reversed(record.windows) if not _too_little(window))


def _too_little(window: Window) -> str | None:
    ended = len(window.responses)
    if window.chunks > MOST_CHUNKS * (ended + window.chunks):
        return (
            f"{window.chunks} of {ended + window.chunks} requests were chunks of responses that went on elsewhere: a "
            "rollout controller divides this rollout already, and one engine sees too little of it"
        )
    if window.running:
        return (
            f"{window.running} of the window's requests still run and {ended} have ended, the short ones first: wait "
            "until the rollout has ended"
        )
    if ended < LEAST_RESPONSES:
        return f"{ended} responses have ended, wanted at least {LEAST_RESPONSES}"
    if len({response.group for response in window.responses}) == ended:
        return f"no two of {ended} responses have the same prompt: Seer learns from siblings"
    return None


def predict(record: Record, window: Window) -> Prediction | str:
    """What Seer would have gained in the window, or why that cannot be said."""
    if record.speculation is not None:
        return f"the engine drafts by itself ({record.speculation}), and the simulated one does not"
    if len({step.rows for step in record.steps}) < LEAST_SIZES:
        return f"steps of {len(record.steps)} sizes were timed, wanted at least {LEAST_SIZES} sizes of batches"
    step = fit([StepPoint(rows=one.rows, context=one.context, seconds=one.seconds) for one in record.steps])
    draft_tokens = _draft_tokens(record)
    cluster = Cluster(
        profile=_profile(record, step),
        instances=1,
        acceptance=Acceptance(draft_tokens or {0: 1.0}),
    )
    stock = record.policy if record.policy in SIMULATED else "fcfs"
    policies = {name: POLICIES[name] for name in (stock, ORDERED, *((DRAFTED,) if draft_tokens else ()))}
    seconds, tail_s = _times(window.responses)
    whole = _results(cluster, policies, window.responses)
    drawn = [_results(cluster, policies, responses) for responses in _draws(window.responses)]
    return Prediction(
        observed_s=seconds,
        observed_tail_s=tail_s,
        observed_retractions=sum(response.retractions for response in window.responses),
        model_error=whole[stock].seconds / seconds - 1.0,
        outcomes={name: _outcome(name, stock, whole, drawn) for name in policies},
        draft_tokens=draft_tokens,
        draws=len(drawn),
        assumptions=_assumptions(record, window, draft_tokens),
    )


def _times(responses: Sequence[Response]) -> tuple[float, float]:
    """Seconds from the first arrival to the last end, and those of the tail."""
    if not responses:
        raise ValueError("responses: got none, wanted at least one")
    began_s = min(response.arrived_s for response in responses)
    ended = [response.ended_s for response in responses]
    return max(max(ended) - began_s, 1e-9), tail_seconds(ended)


def _draft_tokens(record: Record) -> dict[int, float]:
    found = {
        siblings: min(one.tokens / one.steps, _STEP_ROOM - 0.01)
        for siblings, one in enumerate(record.drafts)
        if one.steps >= LEAST_DRAFT_STEPS
    }
    return found if 0 in found else {}


def _profile(record: Record, step: StepTime) -> Profile:
    return Profile(
        name="observed engine",
        gpus=1,
        kv_capacity_tokens=record.kv_capacity_tokens,
        step=step,
        # No KV moves: there is one engine.
        kv_bytes_per_token=1.0,
        link_bytes_s=1e12,
        max_running=record.max_running,
        source="step times that the engine measured",
    )


def _requests(responses: Sequence[Response], capacity: int) -> list[Request]:
    """In the order of their arrival; a limit beyond the KV pool is none."""
    began_s = min(response.arrived_s for response in responses)
    requests = []
    # They are recorded in the order of their ends; of those that came together, who began first was before.
    for number, one in enumerate(sorted(responses, key=lambda response: (response.arrived_s, response.first_s))):
        most = max(capacity - one.prompt_tokens - _STEP_ROOM, 1)
        length = min(max(one.tokens, 1), most)
        requests.append(
            Request(
                index=number,
                group=str(one.group),
                prompt_tokens=one.prompt_tokens,
                length_tokens=length,
                limit_tokens=max(min(one.limit_tokens, most), length),
                arrives_s=one.arrived_s - began_s,
            )
        )
    return requests


def _results(cluster: Cluster, policies: Mapping[str, Policy], responses: Sequence[Response]) -> dict[str, Result]:
    capacity = cluster.profile.kv_capacity_tokens
    return {name: simulate(cluster, policy, _requests(responses, capacity)) for name, policy in policies.items()}


def _draws(responses: Sequence[Response]) -> list[list[Response]]:
    """As many groups as there were, drawn with replacement; the same draws for the same window."""
    groups: dict[int, list[Response]] = {}
    for response in responses:
        groups.setdefault(response.group, []).append(response)
    of_group = list(groups.values())
    rng = np.random.default_rng(0)
    found = []
    for _ in range(max(2, min(MOST_DRAWS, DRAWN_REQUESTS // len(responses)))):
        chosen = rng.integers(len(of_group), size=len(of_group)).tolist()
        # A group that is drawn twice is two groups.
        found.append(
            [
                msgspec.structs.replace(response, group=number)
                for number, place in enumerate(chosen)
                for response in of_group[place]
            ]
        )
    return found


def _outcome(name: str, stock: str, whole: Mapping[str, Result], drawn: Sequence[Mapping[str, Result]]) -> Outcome:
    def throughput(results: Mapping[str, Result]) -> float:
        return results[name].tokens_per_s / results[stock].tokens_per_s

    def tail(results: Mapping[str, Result]) -> float | None:
        return results[name].tail_s / results[stock].tail_s if results[stock].tail_s > 0.0 else None

    tails = [ratio for ratio in (tail(results) for results in (whole, *drawn)) if ratio is not None]
    of_whole = tail(whole)
    ratios = [throughput(results) for results in (whole, *drawn)]
    return Outcome(
        seconds=whole[name].seconds,
        tail_s=whole[name].tail_s,
        retractions=whole[name].counts.retractions,
        throughput=Spread(ratios[0], min(ratios), max(ratios)),
        tail=None if of_whole is None else Spread(of_whole, min(tails), max(tails)),
    )


def _assumptions(record: Record, window: Window, draft_tokens: Mapping[int, float]) -> list[str]:
    found = [
        "one engine with its own queue: nothing moves to other engines, which is where a rollout controller gains",
        "a step of n rows takes as long as the timed ones say, whether they are requests, drafts or a prefill",
        "Seer's own work between steps costs nothing; requests do not yield at the end of chunks",
    ]
    if record.policy not in SIMULATED:
        found.append(f"stock order is by arrival; the engine's own policy is {record.policy}")
    if draft_tokens:
        found.append(
            f"drafts are chains of at most {PAPER_LONGEST_DRAFT} tokens from a request's own text and finished "
            "siblings; Seer drafts trees, from running siblings too"
        )
    else:
        found.append(f"drafts are left out: fewer than {LEAST_DRAFT_STEPS} steps of them were replayed")
    if window.left_out:
        found.append(f"{window.left_out} later requests beside these are left out")
    if window.aborted:
        found.append(f"{window.aborted} aborted requests are left out")
    return found
