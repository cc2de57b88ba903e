"""One response being made."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Where a request's KV is: nowhere, or in the pool that all instances reach. Else the number of the instance.
NOWHERE = -1
POOL = -2


@dataclass(slots=True, eq=False)
class Request:
    """length_tokens is what it will generate; only oracles may look at it before it is there.

    arrives_s: when it is asked for. tokens: generated and safe. kv_at: the instance that holds its KV, or NOWHERE, or
    POOL. target_tokens: where its present stay on an instance ends. The rest is the instance's bookkeeping.
    """

    index: int
    group: str
    prompt_tokens: int
    length_tokens: int
    limit_tokens: int
    arrives_s: float = 0.0
    tokens: int = 0
    kv_at: int = NOWHERE
    target_tokens: int = 0
    reserved_tokens: int = 0
    joined_tokens: int = 0
    mark: float = 0.0
    kind: int = 0
    ticket: int = 0
    retractions: int = 0
    finished_s: float = -1.0

    def __post_init__(self) -> None:
        if self.prompt_tokens < 0:
            raise ValueError(f"request {self.index}: prompt_tokens: got {self.prompt_tokens}, wanted 0 or more")
        if self.length_tokens < 1:
            raise ValueError(f"request {self.index}: length_tokens: got {self.length_tokens}, wanted at least 1")
        if not 0.0 <= self.arrives_s < math.inf:
            raise ValueError(f"request {self.index}: arrives_s: got {self.arrives_s}, wanted a finite time, 0 or more")
        if self.limit_tokens < self.length_tokens:
            raise ValueError(
                f"request {self.index}: limit_tokens: got {self.limit_tokens}, wanted at least its length, "
                f"{self.length_tokens}"
            )

    @property
    def remaining_tokens(self) -> int:
        return self.length_tokens - self.tokens

    @property
    def kv_tokens(self) -> int:
        """KV of what is safe."""
        return self.prompt_tokens + self.tokens
