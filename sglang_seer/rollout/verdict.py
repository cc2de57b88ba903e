"""What the end of a chunk means for its sample. Pure: no clock, no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sglang_seer.rollout.exact import Plan
from sglang_seer.rollout.seams import Seams
from sglang_seer.rollout.stream import Part


class Verdict(NamedTuple):
    """What is kept of a chunk. end: of the chunk. finish_reason: of the sample, None where it goes on."""

    output_ids: list[int]
    logprobs: list[float] | None
    end: str
    finish_reason: str | None = None
    matched: int | str | None = None


def judge(
    plan: Plan,
    before: Sequence[int],
    part: Part | None,
    *,
    asked: int,
    broken: str | None,
    seams: Seams | None,
    eos: frozenset[int],
) -> Verdict:
    """Of a chunk that was asked for `asked` tokens after the response tokens `before`.

    broken: why the stream broke off; what had come is kept. eos: tokens that end a response, where known.
    """
    if part is None:
        return Verdict([], None, broken or "the stream ended without an event")
    output_ids, logprobs, finish = part.output_ids, part.logprobs, part.finish
    seam = len(before)
    if finish is not None and finish.type == "abort":
        broken, finish = f"aborted: {finish.message or 'without a reason'}", None
    elif finish is None:
        broken = broken or "the stream ended without a finish reason"
    if seams is not None and plan.stops and seam and not plan.whole:
        stop = seams.stop_over_seam(plan.stops, [*before, *output_ids], seam)
        if stop is not None:
            kept = stop.length - seam
            return Verdict(output_ids[:kept], logprobs and logprobs[:kept], "stop", "stop", stop.matched)
    if finish is None:
        # The last token of all is left to an engine that says how the response ended.
        room = plan.limit - 1 - seam
        return Verdict(output_ids[:room], logprobs and logprobs[:room], broken or "broken off")
    if finish.type == "stop":
        matched = finish.matched if isinstance(finish.matched, int | str) else None
        return Verdict(output_ids, logprobs, "stop", "stop", matched)
    ends = seam + len(output_ids) >= plan.limit
    if not ends and output_ids and not plan.sampling.get("ignore_eos"):
        # SGLang up to 0.5.15 says `length` where a stop token is the last one of a chunk.
        last = output_ids[-1]
        if last in plan.stop_token_ids or last in eos:
            return Verdict(output_ids, logprobs, "stop", "stop", last)
    # An engine gives less than asked where prompt and response fill the model's context or its memory.
    ends = ends or len(output_ids) < asked
    return Verdict(output_ids, logprobs, "length", "length" if ends else None)
