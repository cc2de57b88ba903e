"""What a simulated rollout gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any, NamedTuple


class Sample(NamedTuple):
    """The cluster at one time. waiting: neither running nor done. kv_used: share of all KV capacity."""

    seconds: float
    running: int
    waiting: int
    kv_used: float


@dataclass(slots=True)
class Counts:
    """Tokens and events of a run. lost_tokens were generated and are gone, after failures."""

    generated_tokens: int = 0
    lost_tokens: int = 0
    prefilled_tokens: int = 0
    prefilled_again_tokens: int = 0
    retractions: int = 0
    migrations: int = 0
    migrated_bytes: float = 0.0
    chunks: int = 0
    failures: int = 0


def tail_seconds(finish_s: Sequence[float]) -> float:
    """Seconds in which only the last 10% of the requests ran."""
    ordered = sorted(finish_s)
    return ordered[-1] - ordered[ceil(0.9 * len(ordered)) - 1]


@dataclass(frozen=True, slots=True)
class Result:
    """seconds: until the last wanted request was done. finish_s: of each of them, rising. tokens: of those."""

    seconds: float
    finish_s: Sequence[float]
    tokens: int
    counts: Counts
    busy_s: Sequence[float]
    peak_kv_tokens: float
    samples: Sequence[Sample] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        """Response tokens of finished requests per second."""
        return self.tokens / self.seconds

    @property
    def tail_s(self) -> float:
        """Seconds in which only the last 10% of the requests ran."""
        return tail_seconds(self.finish_s)

    def as_json(self) -> dict[str, Any]:
        """Numbers only; samples as lists."""
        return {
            "seconds": self.seconds,
            "tokens": self.tokens,
            "tokens_per_s": self.tokens_per_s,
            "tail_s": self.tail_s,
            "requests": len(self.finish_s),
            "peak_kv_tokens": self.peak_kv_tokens,
            "busy_share": sum(self.busy_s) / len(self.busy_s) / self.seconds,
            **asdict(self.counts),
            "samples": [list(sample) for sample in self.samples],
        }
