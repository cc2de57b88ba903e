"""What is measured: name, meaning, and where the status has it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

PREFIX = "sglang_seer_"
MODES = ("off", "observe", "on")
Status = Mapping[str, Any]
Values = dict[tuple[str, ...], float]
"""By the measure's own labels; () where it has none."""


@dataclass(frozen=True, slots=True)
class Measure:
    """name: without PREFIX, and without the _total that counters get. read: the values in a status, none where a part
    is not there."""

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    read: Callable[[Status], Values]
    labels: tuple[str, ...] = ()


def _counted(counter: str) -> Callable[[Status], Values]:
    """A counter of the status; 0 until it is counted first."""
    return lambda status: {(): float(status["counters"].get(counter, 0))}


def _counted_by(prefix: str) -> Callable[[Status], Values]:
    """All counters that begin so; the rest of their name is the label."""
    return lambda status: {
        (name.removeprefix(prefix),): float(value)
        for name, value in status["counters"].items()
        if name.startswith(prefix)
    }


def _of(part: str, key: str, scale: float = 1.0) -> Callable[[Status], Values]:
    """A number that a part of Seer says of itself."""
    return lambda status: {(): float(status[part][key]) * scale} if key in status.get(part, {}) else {}


def _sides(part: str, **keys: str) -> Callable[[Status], Values]:
    """Numbers of a part, each under a label."""
    return lambda status: {
        (label,): float(status[part][key]) for label, key in keys.items() if key in status.get(part, {})
    }


def _table(part: str, key: str) -> Callable[[Status], Values]:
    """A mapping from label to number that a part has."""
    return lambda status: {(str(name),): float(value) for name, value in status.get(part, {}).get(key, {}).items()}


def _depths(key: str) -> Callable[[Status], Values]:
    """A list that counts from depth 1."""
    return lambda status: {
        (str(depth),): float(value) for depth, value in enumerate(status.get("drafts", {}).get(key, ()), 1)
    }


def _mode(status: Status) -> Values:
    return {(mode,): float(mode == status["mode"]) for mode in MODES}


def _groups(status: Status) -> Values:
    return {(): float(status["groups"])} if "groups" in status else {}


def _bus_up(status: Status) -> Values:
    bus = status.get("bus")
    return {} if bus is None else {(): float(bus["state"] == "running" and bus.get("connected", True))}


def _cost_share(status: Status) -> Values:
    return {(): float(status.get("observed", {}).get("cost_share", 0.0))}


MEASURES: tuple[Measure, ...] = (
    Measure("mode", "gauge", "1 for what Seer does here: off, observe or on.", _mode, ("mode",)),
    # Scheduling
    Measure("groups", "gauge", "Groups whose lengths are known.", _groups),
    Measure("admissions", "counter", "Requests that got their first token.", _counted("admitted")),
    Measure(
        "admissions_held_back",
        "counter",
        "Looks at a request that kept it waiting, as the KV pool was expected to overflow before somebody finishes.",
        _counted("admissions_held_back"),
    ),
    Measure("retractions", "counter", "Requests that lost their KV to a full pool.", _counted("retractions")),
    Measure("yields", "counter", "Requests that made room at the end of a chunk.", _counted("yields")),
    Measure(
        "yield_prefilled_tokens",
        "counter",
        "Tokens computed again when requests came back after a yield.",
        _counted("yield_tokens_prefilled"),
    ),
    Measure("queue_decisions", "counter", "Queues put in order.", _counted("decisions")),
    Measure("queue_reorders", "counter", "Queues whose order changed by that.", _counted("reordered")),
    Measure("finished_responses", "counter", "Responses that ended here.", _counted("finished")),
    Measure("finished_elsewhere", "counter", "Lengths of siblings on other engines.", _counted("finished_elsewhere")),
    Measure("chunks", "counter", "Chunks of responses that go on later or elsewhere.", _counted("chunks")),
    Measure("aborted_responses", "counter", "Responses that were aborted.", _counted("aborted")),
    Measure(
        "estimated_tokens",
        "counter",
        "Tokens of finished responses whose length was estimated when they were admitted.",
        _counted("estimated_tokens"),
    ),
    Measure(
        "estimate_error_tokens",
        "counter",
        "By how much those estimates were off; divided by the tokens, the relative error.",
        _counted("estimate_error_tokens"),
    ),
    Measure("flushes", "counter", "Flushes, as after weight updates: all that was learnt went.", _counted("flushes")),
    # Observe mode
    Measure(
        "observed_admissions", "counter", "Observe mode: admissions that were looked at.", _counted("admissions_judged")
    ),
    Measure(
        "observed_admissions_delayed",
        "counter",
        "Of those, which Seer would have kept waiting.",
        _counted("admissions_it_would_delay"),
    ),
    Measure("observed_cost_share", "gauge", "Observe mode: share of the busy time that it took.", _cost_share),
    # Drafts
    Measure("drafted_tokens", "counter", "Draft tokens verified.", _depths("drafted_by_depth"), ("depth",)),
    Measure("accepted_tokens", "counter", "Of those, accepted.", _depths("accepted_by_depth"), ("depth",)),
    Measure(
        "steps",
        "counter",
        "Decode steps by nodes verified beyond the root.",
        _counted_by("steps_of_width_"),
        ("width",),
    ),
    Measure("draft_seconds", "counter", "Time in which drafts were made.", _of("budget", "draft_s")),
    Measure(
        "verify_seconds",
        "counter",
        "Time from a step's drafts to the next step's, of steps that nothing interrupted.",
        _of("budget", "verify_s"),
    ),
    Measure("verify_timed_steps", "counter", "Steps in verify_seconds.", _of("budget", "timed_steps")),
    Measure(
        "plain_path_steps",
        "counter",
        "One-token steps of requests that cannot be verified in a tree.",
        _counted_by("plain_path_for_"),
        ("reason",),
    ),
    Measure(
        "refused",
        "counter",
        "What was not used: hints of requests, text of other engines.",
        lambda status: {
            ("malformed_hints",): float(status["counters"].get("malformed_hints", 0)),
            ("bus_text",): float(status["counters"].get("bus_refused", 0)),
        },
        ("reason",),
    ),
    Measure("index_groups", "gauge", "Groups in the draft index.", _of("drafts", "groups")),
    Measure("index_tokens", "gauge", "Tokens in the draft index.", _of("drafts", "tokens")),
    Measure("index_bytes", "gauge", "Memory of the draft index.", _of("drafts", "bytes")),
    # Token bus
    Measure("bus_up", "gauge", "1 while text is shared with other engines.", _bus_up),
    Measure(
        "bus_queued_tokens",
        "gauge",
        "Tokens on their way: out, not sent yet; in, arrived and not taken yet.",
        _sides("bus", out="queued_out_tokens", **{"in": "queued_in_tokens"}),
        ("direction",),
    ),
    Measure("bus_lag_seconds", "gauge", "From sending to arrival, a running mean.", _of("bus", "lag_ms", 1e-3)),
    Measure("bus_flush_lag_seconds", "gauge", "From writing to sending, last.", _of("bus", "flush_lag_ms", 1e-3)),
    Measure(
        "bus_catch_up_seconds", "gauge", "From joining a group to its text, last.", _of("bus", "catch_up_ms", 1e-3)
    ),
    Measure(
        "bus_bytes",
        "counter",
        "Bytes of messages, without what the transport adds.",
        _sides("bus", sent="sent_bytes", received="received_bytes"),
        ("direction",),
    ),
    Measure(
        "bus_tokens",
        "counter",
        "Tokens in messages.",
        _sides("bus", sent="sent_tokens", received="received_tokens"),
        ("direction",),
    ),
    Measure(
        "bus_dropped_tokens",
        "counter",
        "Tokens dropped where a queue was full.",
        _sides("bus", out="dropped_out_tokens", **{"in": "dropped_in_tokens"}),
        ("direction",),
    ),
    Measure(
        "bus_dropped_messages",
        "counter",
        "Messages that were not used.",
        _table("bus", "dropped_messages"),
        ("reason",),
    ),
    Measure(
        "bus_dropped_items",
        "counter",
        "Pieces of text that were not used.",
        _table("bus", "dropped_items"),
        ("reason",),
    ),
    Measure("bus_repairs", "counter", "Times that lost text was asked for again.", _of("bus", "repairs")),
    Measure("bus_repaired_tokens", "counter", "Tokens that waited for lost text.", _of("bus", "repaired_tokens")),
)
