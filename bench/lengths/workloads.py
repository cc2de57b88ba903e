"""Response lengths by group, from trace files or drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bench.draft.traces import TraceSet

Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Workload:
    """groups: tokens of each response of each prompt. limit_tokens: where responses are cut."""

    name: str
    real: bool
    groups: list[Lengths]
    limit_tokens: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """How lengths are drawn: log length = mean of the group + noise, both with `scatter` standard deviation in all.

    correlation: share of the variance between groups. freedom: degrees of freedom of the noise (Student's t), None for
    the normal distribution. cut_share: share of the responses that the limit cuts.
    """

    name: str
    correlation: float
    scatter: float = 0.8
    freedom: float | None = None
    cut_share: float = 0.0


DRAWN = (
    Drawn("correlation 0", 0.0),
    Drawn("correlation 0.3", 0.3),
    Drawn("correlation 0.6", 0.6),
    Drawn("correlation 0.9", 0.9),
    Drawn("correlation 0.6, heavy tails", 0.6, freedom=3.0),
    Drawn("correlation 0.6, 20% cut", 0.6, cut_share=0.2),
)


def draw(how: Drawn, *, groups: int, size: int, seed: int = 0) -> Workload:
    """Deterministic in all arguments; the typical length is 3,000 tokens."""
    rng = np.random.default_rng([seed, *how.name.encode()])
    mean = rng.standard_normal((groups, 1)) * math.sqrt(how.correlation)
    if how.freedom is None:
        noise = rng.standard_normal((groups, size))
    else:
        noise = rng.standard_t(how.freedom, (groups, size)) / math.sqrt(how.freedom / (how.freedom - 2))
    logs = math.log(3000) + how.scatter * (mean + noise * math.sqrt(1 - how.correlation))
    tokens = np.exp(logs.clip(max=math.log(1e6))).astype(np.int64).clip(min=1)
    limit = int(np.quantile(tokens, 1 - how.cut_share)) if how.cut_share else _limit_above(int(tokens.max()))
    return Workload(how.name, False, list(tokens.clip(max=limit)), limit)


def from_traces(one: TraceSet, tokenizer: Tokenizer) -> Workload:
    """Lengths of the generated text of a set. Raises ValueError if no group has two responses."""
    groups = []
    for group in one.groups:
        texts = ["".join(part.text for part in response if part.generated) for response in group.responses]
        encoded = tokenizer.encode_batch([text for text in texts if text], add_special_tokens=False)
        if len(encoded) > 1:
            groups.append(np.array([len(text.ids) for text in encoded], dtype=np.int64))
    if not groups:
        raise ValueError(f"{one.name}: wanted a prompt with at least two responses, saw none")
    return Workload(one.name, True, groups, _limit_above(max(int(group.max()) for group in groups)))


def _limit_above(longest: int) -> int:
    """A power of two, as users choose limits, that cuts nobody."""
    return 1 << longest.bit_length()


def correlation(groups: Sequence[Lengths]) -> float:
    """Share of the variance of log length that lies between groups (one-way random effects)."""
    logs = [np.log(group) for group in groups]
    within = float(np.mean([one.var(ddof=1) for one in logs]))
    between = float(np.var([one.mean() for one in logs], ddof=1))
    between -= float(np.mean([one.var(ddof=1) / len(one) for one in logs]))
    return max(between, 0.0) / (max(between, 0.0) + within) if within else 1.0
