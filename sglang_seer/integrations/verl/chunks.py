"""What veRL asks a server for, as a plan of chunks; and what a chunk brought. No veRL in here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_seer.rollout.exact import Plan, plan
from sglang_seer.rollout.stream import FinishReason, Part

ABORTED = ("abort", "aborted")
# veRL counts this into the number of tokens that fit into the model: prompt, response and one more.
SPARE_TOKENS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """veRL's limits of a rollout, in tokens. max_model_len: of prompt and response together."""

    prompt_length: int
    response_length: int
    max_model_len: int


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of an agent loop. seed: None where the loop names none."""

    plan: Plan
    logprobs: bool
    seed: int | None


def limit_of(sampling: Mapping[str, Any], prompt_tokens: int, lengths: Lengths) -> int:
    """Most tokens of the response, as veRL's SGLang server sets it for a whole request; 0 or less: no room."""
    for key in ("max_new_tokens", "max_tokens"):
        if key in sampling:
            limit = int(sampling[key])
            break
    else:
        in_all = lengths.prompt_length + lengths.response_length
        limit = min(lengths.response_length, in_all - prompt_tokens)
    return min(limit, lengths.max_model_len - prompt_tokens - SPARE_TOKENS)


def read(
    sampling: Mapping[str, Any], *, prompt_tokens: int, lengths: Lengths, tokenizer: bool, media: bool
) -> Asked | None:
    """The plan of a request; None where it goes veRL's own way: log-probabilities of the prompt, or no room.

    tokenizer: whether text can be looked at over seams. media: it has images, videos or sound, and runs whole.
    Raises ValueError for parameters that are none.
    """
    limit = limit_of(sampling, prompt_tokens, lengths)
    if limit < 1 or sampling.get("prompt_logprobs") is not None:
        return None
    ours = ("max_tokens", "logprobs", "prompt_logprobs")
    wanted = {key: value for key, value in sampling.items() if key not in ours}
    made = plan({**wanted, "max_new_tokens": limit}, tokenizer=tokenizer)
    if media:
        made = Plan(
            limit=made.limit,
            sampling=made.sampling,
            custom_params=made.custom_params,
            min_new_tokens=made.min_new_tokens,
            stops=made.stops,
            stop_token_ids=made.stop_token_ids,
            whole=(*made.whole, "media: placeholders of the prompt are filled in by the engine"),
        )
    return Asked(made, bool(sampling.get("logprobs")), sampling.get("sampling_seed"))


def part_of(
    token_ids: Sequence[int], logprobs: Sequence[float] | None, stop_reason: str | None, *, wanted: bool
) -> tuple[Part | None, str | None]:
    """A chunk as veRL's server hands it over, and why it is none where it is none.

    veRL's server answers with nothing, and no error, where tokens and log-probabilities did not match.
    """
    aborted = stop_reason in ABORTED
    if not token_ids and not aborted:
        return None, f"no tokens: veRL's server gave an empty response with stop_reason {stop_reason!r}"
    if wanted and len(logprobs or ()) != len(token_ids):
        return None, f"log-probabilities: got {len(logprobs or ())} for {len(token_ids)} tokens"
    finish = FinishReason("abort" if aborted else stop_reason) if stop_reason else None
    return Part(output_ids=list(token_ids), logprobs=list(logprobs or ()) if wanted else None, finish=finish), None


def group_of_prompt(prompt_ids: Sequence[int]) -> str:
    """A group's name where the trainer gave none: requests with one prompt are siblings."""
    digest = hashlib.blake2b(b",".join(b"%d" % token for token in prompt_ids), digest_size=8)
    return f"prompt-{digest.hexdigest()}"
