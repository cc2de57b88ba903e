"""Where two samples part, and how near the call was there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests
import torch

from sglang_seer.rollout.records import GenerateRequest, Generation
from sglang_seer.verify import murmur_hash32

ASK_TIMEOUT_S = 120.0
_UNIFORM_STEPS = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Sample `sample` of `group` parts at output token `place`: one side has `stock` there, the other `seer`.

    margin: by how much stock's token won, in nats: of the scores that decide, log-probabilities plus the noise of the
    request's seed; None where one side had ended. Of a fault it is a few nats, of a near tie next to nothing.
    """

    group: str
    sample: int
    place: int
    stock: int | None
    seer: int | None
    margin: float | None


def first_difference(stock: Sequence[int], seer: Sequence[int]) -> int | None:
    """The first place at which they differ, which may be the end of the shorter one."""
    for place, (one, other) in enumerate(zip(stock, seer, strict=False)):
        if one != other:
            return place
    return None if len(stock) == len(seer) else min(len(stock), len(seer))


def look(url: str, request: GenerateRequest, stock: Generation, seer: Generation) -> Difference | None:
    """None for equal samples; else where they part, with the margin as the engine at `url` sees it now.

    The engine computes both log-probabilities by a prefill of what the samples have in common.
    """
    place = first_difference(stock.output_ids, seer.output_ids)
    if place is None:
        return None
    tokens = [one.output_ids[place] if place < len(one.output_ids) else None for one in (stock, seer)]
    margin = None
    if tokens[0] is not None and tokens[1] is not None:
        margin = ask_margin(url, request, stock.output_ids[:place], tokens[0], tokens[1])
    return Difference(
        group=request.group, sample=request.sample, place=place, stock=tokens[0], seer=tokens[1], margin=margin
    )


def ask_margin(url: str, request: GenerateRequest, before: Sequence[int], one: int, other: int) -> float:
    """By how much the score of token `one` is above that of `other` after the prompt and `before`, in nats."""
    input_ids = [*request.input_ids, *before]
    body: dict[str, Any] = {
        "input_ids": input_ids,
        "sampling_params": {"temperature": 1.0, "max_new_tokens": 1, "sampling_seed": request.seed},
        "return_logprob": True,
        "token_ids_logprob": [one, other],
    }
    answer = requests.post(f"{url}/generate", json=body, timeout=ASK_TIMEOUT_S)
    answer.raise_for_status()
    (named,) = answer.json()["meta_info"]["output_token_ids_logprobs"]
    logprobs = {token: logprob for logprob, token, *_ in named}
    return margin_of(
        logprobs, one, other, seed=request.seed, position=len(input_ids) - 1, greedy=not request.temperature
    )


def margin_of(logprobs: Mapping[int, float], one: int, other: int, *, seed: int, position: int, greedy: bool) -> float:
    """Of log-probabilities at temperature 1. position: of the token before, absolute in the sequence."""
    noise = {one: 0.0, other: 0.0} if greedy else {token: _noise(seed, position, token) for token in (one, other)}
    return (logprobs[one] + noise[one]) - (logprobs[other] + noise[other])


def _noise(seed: int, position: int, token: int) -> float:
    """As `sglang_seer.verify.gumbel_noise`, of one column."""
    words = (torch.tensor([number]) for number in (seed, position, token))
    uniform = murmur_hash32(*words).double() / _UNIFORM_STEPS
    return float(-torch.log(-torch.log(uniform).clamp(min=torch.finfo(torch.float64).min, max=-(2.0**-32))))
