"""What an engine said and what is predicted from it, as a mapping for JSON and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sglang_seer.observe.predict import DRAFTED, ORDERED, choose, predict, tail_share
from sglang_seer.observe.record import Record, decode

OFF, OBSERVE = "off", "observe"
# Beyond this the simulated stock engine is not the observed one.
FAR = 0.25
NAMES = {ORDERED: "Seer's order and admission", DRAFTED: "Seer with drafts from siblings"}
_COUNTED = ("finished", "aborted", "chunks", "retractions", "yields", "admissions_held_back")


def report(status: Mapping[str, Any] | None) -> dict[str, Any]:
    """Of one rank's status in /server_info; None where it has none.

    Raises ValueError for the record of another version.
    """
    if status is None:
        return {"mode": None}
    found = {name: status.get(name) for name in ("mode", "version", "sglang_version", "parts", "reasons")}
    counters = status.get("counters", {})
    looked = counters.get("decisions", 0)
    found["counters"] = {name: counters.get(name, 0) for name in _COUNTED}
    found["queues"] = {"looked_at": looked, "other_order": counters.get("reordered", 0)}
    if status.get("mode") == OBSERVE and "record" in status.get("observed", {}):
        found |= _observed(status["observed"], counters)
    elif "drafts" in status:
        found["drafts"] = {name: status["drafts"][name] for name in ("drafted_by_depth", "accepted_by_depth")}
    return found


def _observed(observed: Mapping[str, Any], counters: Mapping[str, int]) -> dict[str, Any]:
    record = decode(observed["record"])
    found: dict[str, Any] = {
        "cost_share": observed["cost_share"],
        "would_refuse": observed["would_refuse"],
        "admissions": {
            "looked_at": counters.get("admissions_judged", 0),
            "would_delay": counters.get("admissions_it_would_delay", 0),
        },
        "engine": _engine(record),
    }
    window = choose(record)
    if isinstance(window, str):
        return found | {"prediction": None, "no_prediction": window}
    found["window"] = {
        "responses": len(window.responses),
        "groups": len({response.group for response in window.responses}),
        "tokens": sum(response.tokens for response in window.responses),
        "retractions": sum(response.retractions for response in window.responses),
        "tail_share": tail_share(window),
    }
    prediction = predict(record, window)
    if isinstance(prediction, str):
        return found | {"prediction": None, "no_prediction": prediction}
    return found | {"prediction": asdict(prediction)}


def _engine(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("policy", "speculation", "kv_capacity_tokens", "max_running")}


def text(found: Mapping[str, Any]) -> str:
    """For people."""
    mode = found["mode"]
    if mode is None:
        return "stock SGLang: no sglang-seer there; install it and start the server with SGLANG_SEER=observe"
    lines = [f"sglang-seer {found['version']} on SGLang {found['sglang_version']}, mode: {mode}"]
    lines += [f"  not active: {reason}" for reason in found["reasons"] or ()]
    if mode == OFF:
        return "\n".join([*lines, "start the server with SGLANG_SEER=observe to see what Seer would do"])
    if mode == OBSERVE:
        return "\n".join(lines + _observed_lines(found))
    counters = found["counters"]
    lines.append(f"active: {', '.join(found['parts'])}")
    lines.append(f"queues put in order: {found['queues']['looked_at']}, changed: {found['queues']['other_order']}")
    lines.append(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in counters.items()))
    if "drafts" in found:
        drafted, accepted = (sum(found["drafts"][name]) for name in ("drafted_by_depth", "accepted_by_depth"))
        lines.append(f"draft tokens verified: {drafted}, accepted: {accepted}")
    return "\n".join(lines)


def _observed_lines(found: Mapping[str, Any]) -> list[str]:
    if "engine" not in found:
        return ["nothing is observed there"]
    engine, queues, admissions = found["engine"], found["queues"], found["admissions"]
    drafts = engine["speculation"] or "none"
    lines = [
        f"engine: policy {engine['policy']}, drafts {drafts}, {engine['kv_capacity_tokens']:,} KV slots, "
        f"at most {engine['max_running']} running",
        f"observing took {found['cost_share']:.2%} of the engine's busy time",
    ]
    lines += [f"Seer would refuse to start: {reason}" for reason in found["would_refuse"]]
    lines.append(
        f"queues looked at: {queues['looked_at']}, in another order: {queues['other_order']}; "
        f"admissions looked at: {admissions['looked_at']}, delayed: {admissions['would_delay']}; "
        f"retractions suffered: {found['counters']['retractions']}"
    )
    if "window" in found:
        window = found["window"]
        lines.append(
            f"window: {window['responses']} responses to {window['groups']} prompts, {window['tokens']:,} tokens, "
            f"{window['retractions']} retractions, tail (only the last 10% run) {window['tail_share']:.0%} of the time"
        )
    if found["prediction"] is None:
        return [*lines, f"no prediction: {found['no_prediction']}"]
    return lines + _predicted_lines(found["prediction"])


def _predicted_lines(prediction: Mapping[str, Any]) -> list[str]:
    outcomes = prediction["outcomes"]
    observed = [f"{prediction[name]:.2f}" for name in ("observed_s", "observed_tail_s")]
    rows: list[tuple[str, ...]] = [("", "seconds", "tail s", "retractions", "throughput / stock", "tail / stock")]
    rows.append(("observed", *observed, str(prediction["observed_retractions"]), "", ""))
    for name, one in outcomes.items():
        stock = name not in NAMES
        rows.append(
            (
                f"simulated: {NAMES.get(name, f'stock, {name}')}",
                f"{one['seconds']:.2f}",
                f"{one['tail_s']:.2f}",
                str(one["retractions"]),
                "1" if stock else _spread(one["throughput"]),
                "1" if stock else _spread(one["tail"]),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines = [line.rstrip() for line in lines]
    if prediction["draft_tokens"]:
        shown = ", ".join(f"{siblings}: {tokens:.2f}" for siblings, tokens in prediction["draft_tokens"].items())
        lines.append(f"tokens of a step with drafts, by finished siblings: {shown}")
    error = prediction["model_error"]
    lines.append(
        f"the simulation of stock took {abs(error):.0%} {'more' if error > 0 else 'less'} time than was observed; in "
        f"brackets: lowest and highest of {prediction['draws']} rollouts drawn anew from the observed prompts, too"
    )
    if abs(error) > FAR:
        lines.append(f"beyond {FAR:.0%} the simulated engine is not this one: do not rely on the prediction")
    return [*lines, "assumed:", *(f"  - {assumption}" for assumption in prediction["assumptions"])]


def _spread(one: Mapping[str, float] | None) -> str:
    return "-" if one is None else f"{one['value']:.2f} ({one['lowest']:.2f} to {one['highest']:.2f})"
