"""Which requests may be cut into chunks without a change to what is sampled, and what each chunk is sent.

A chunk repeats the request with what was generated so far as input. That is exact where the next token depends on the
tokens before it only. Penalties, grammars and processors look at the output alone, which a chunk starts empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# These say the same in every chunk.
STATELESS = {
    "temperature", "top_p", "top_k", "min_p", "stop_token_ids", "ignore_eos", "skip_special_tokens",
    "spaces_between_special_tokens", "no_stop_trim", "logit_bias", "custom_params", "stream_interval",
}  # fmt: skip
# These are set anew for each chunk.
HANDLED = {"max_new_tokens", "min_new_tokens", "stop", "sampling_seed", "n"}
# These do nothing at this value.
NEUTRAL: dict[str, Any] = {
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
    "json_schema": None,
    "regex": None,
    "ebnf": None,
    "structural_tag": None,
    "stop_regex": None,
    "beam_width": 1,
    "watermark": None,
}
DEFAULT_LIMIT = 128


@dataclass(frozen=True, slots=True)
class Plan:
    """How one request is run. sampling: what every chunk is sent as it is. whole: why it is not cut, if it is not."""

    limit: int
    sampling: Mapping[str, Any]
    custom_params: Mapping[str, Any]
    min_new_tokens: int = 0
    stops: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = field(default_factory=frozenset)
    whole: tuple[str, ...] = ()

    def chunk_tokens(self, generated: int, chunk: int) -> int:
        """Most tokens of the next chunk."""
        left = self.limit - generated
        return left if self.whole else min(left, chunk)

    def chunk_sampling(self, *, generated: int, tokens: int, seed: int, hints: Mapping[str, Any]) -> dict[str, Any]:
        """SGLang's sampling parameters of a chunk of at most `tokens` after `generated` ones."""
        parameters = {
            **self.sampling,
            "max_new_tokens": tokens,
            "sampling_seed": seed,
            "custom_params": {**self.custom_params, "seer": hints},
        }
        # A chunk that ends before the minimum is all below it.
        if minimum := min(max(self.min_new_tokens - generated, 0), tokens):
            parameters["min_new_tokens"] = minimum
        if self.stops:
            parameters["stop"] = list(self.stops)
        return parameters


def plan(sampling: Mapping[str, Any], *, tokenizer: bool) -> Plan:
    """The plan of a request with SGLang's sampling parameters. tokenizer: whether text can be looked at over seams.

    Raises ValueError for a limit or a minimum that is none.
    """
    limit = _count(sampling, "max_new_tokens", DEFAULT_LIMIT, least=1)
    minimum = _count(sampling, "min_new_tokens", 0, least=0)
    if minimum > limit:
        raise ValueError(f"min_new_tokens: got {minimum}, wanted at most max_new_tokens = {limit}")
    custom = sampling.get("custom_params") or {}
    if not isinstance(custom, Mapping):
        raise ValueError(f"custom_params: got {type(custom).__name__}, wanted an object")
    stop = sampling.get("stop") or ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(one, str) and one for one in stops):
        raise ValueError(f"stop: got {stop!r}, wanted a string or a list of strings")
    return Plan(
        limit=limit,
        sampling={key: value for key, value in sampling.items() if key not in HANDLED and key != "custom_params"},
        custom_params=custom,
        min_new_tokens=minimum,
        stops=stops,
        stop_token_ids=frozenset(sampling.get("stop_token_ids") or ()),
        whole=tuple(whole_reasons(sampling, tokenizer=tokenizer)),
    )


def whole_reasons(sampling: Mapping[str, Any], *, tokenizer: bool) -> list[str]:
    """Why such a request cannot be cut exactly; empty where it can."""
    reasons = []
    for key, value in sampling.items():
        if key in STATELESS or key in HANDLED or value is None:
            continue
        if key not in NEUTRAL:
            reasons.append(f"{key}: not known to be the same in chunks")
        elif value != NEUTRAL[key] and value not in ("", []):
            reasons.append(f"{key}: depends on the whole output")
    if sampling.get("stop") and not tokenizer:
        reasons.append("stop: strings over a seam need a tokenizer")
    return reasons


def _count(sampling: Mapping[str, Any], key: str, default: int, *, least: int) -> int:
    value = sampling.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{key}: got {value!r}, wanted a whole number of at least {least}")
    return value
