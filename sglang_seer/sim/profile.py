"""What an engine instance costs: seconds of a step, seconds of a prefill, room for KV. Read from JSON.

    T(rows, context) = overhead + max(weights + experts * share(rows), row * rows) + link_row * rows + read * context

A step reads the weights (of a mixture of experts, those that its rows wake up) or is bound by arithmetic, whichever is
longer; it reads the KV of all requests; it exchanges activations between GPUs. Rows are the tokens of a step: one a
request, or one more than the draft with speculation. This is affine in the context, so that many steps of an
unchanged batch have a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from sglang_seer.draft.least_squares import fit_nonnegative


class StepTime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Coefficients of T, all in seconds and none negative.

    weights_s: reading what every step reads. experts_s: reading all routed experts. expert_share: part of the routed
    experts that one row wakes up. row_s, link_row_s: arithmetic and exchange of one row. context_s: reading the KV of
    one token. draft_s, draft_request_s: proposing drafts, once a step and for each request.
    """

    overhead_s: float
    weights_s: float
    row_s: float
    context_s: float
    experts_s: float = 0.0
    expert_share: float = 0.0
    link_row_s: float = 0.0
    draft_s: float = 0.0
    draft_request_s: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise ValueError(f"step.{name}: got {value}, wanted a number of seconds, 0 or more")
        if not self.expert_share <= 1.0:
            raise ValueError(f"step.expert_share: got {self.expert_share}, wanted 0 to 1")
        if self.seconds(1, 0) <= 0.0:
            raise ValueError("step: every coefficient is 0, wanted a step that takes time")

    def batch_seconds(self, rows: float) -> float:
        """Seconds of a step without its reading of KV."""
        awake = self.experts_s * (1.0 - math.pow(1.0 - self.expert_share, rows))
        return self.overhead_s + max(self.weights_s + awake, self.row_s * rows) + self.link_row_s * rows

    def seconds(self, rows: float, context_tokens: float) -> float:
        """T: seconds of a step of `rows` tokens over `context_tokens` tokens of KV in all."""
        return self.batch_seconds(rows) + self.context_s * context_tokens


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine instance.

    gpus: of one instance. kv_capacity_tokens: of all its GPUs. prefill_context_s: attention of one prefilled token to
    one earlier token. kv_bytes_per_token: with link_bytes_s, what moving a request's KV costs. max_running: requests of
    a batch at most. source: where the numbers come from.
    """

    name: str
    gpus: int
    kv_capacity_tokens: int
    step: StepTime
    kv_bytes_per_token: float
    link_bytes_s: float
    prefill_context_s: float = 0.0
    max_running: int = 4096
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("gpus", "kv_capacity_tokens", "max_running"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted at least 1")
        for name in ("kv_bytes_per_token", "link_bytes_s"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted a positive number")
        if not 0.0 <= self.prefill_context_s < math.inf:
            raise ValueError(f"prefill_context_s: got {self.prefill_context_s}, wanted a number of seconds, 0 or more")

    def prefill_seconds(self, new_tokens: int, cached_tokens: int = 0) -> float:
        """Seconds to compute the KV of `new_tokens` after `cached_tokens`, alone in a batch."""
        if new_tokens == 0:
            return 0.0
        pairs = new_tokens * (cached_tokens + 0.5 * new_tokens)
        return self.step.batch_seconds(new_tokens) + self.prefill_context_s * pairs

    def transfer_seconds(self, tokens: float) -> float:
        """Seconds to bring the KV of `tokens` over the link."""
        return tokens * self.kv_bytes_per_token / self.link_bytes_s


class StepPoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured step."""

    rows: int
    context: int
    seconds: float


class _Measured(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A profile whose step time is given as measured points."""

    name: str
    gpus: int
    kv_capacity_tokens: int
    points: list[StepPoint]
    kv_bytes_per_token: float
    link_bytes_s: float
    prefill_context_s: float = 0.0
    max_running: int = 4096
    source: str = ""


def read(path: Path) -> Profile:
    """The profile of a JSON file: with `step` (coefficients), or with `points` (measured steps, which are fitted).

    Raises ValueError for a file that is not there, is no profile, or holds impossible numbers.
    """
    try:
        text = path.read_bytes()
        fields = msgspec.json.decode(text)
        if isinstance(fields, dict) and "points" in fields:
            measured = msgspec.json.decode(text, type=_Measured)
            kept = {name: getattr(measured, name) for name in measured.__struct_fields__ if name != "points"}
            return Profile(step=fit(measured.points), **kept)
        return msgspec.json.decode(text, type=Profile)
    except OSError as error:
        raise ValueError(f"profile {path}: cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"profile {path}: {error}") from error


def fit(points: Sequence[StepPoint]) -> StepTime:
    """The roofline nearest to measured steps, by relative error: base, knee, time a row beyond it, time a token.

    Raises ValueError for fewer than three points or impossible ones.
    """
    if len(points) < 3:
        raise ValueError(f"points: got {len(points)}, wanted at least 3")
    for point in points:
        if point.rows < 1 or point.context < 0 or not 0.0 < point.seconds < math.inf:
            raise ValueError(f"points: got {point}, wanted rows from 1, context from 0 and a positive time")
    rows = np.array([point.rows for point in points], dtype=np.float64)
    context = np.array([point.context for point in points], dtype=np.float64)
    seconds = np.array([point.seconds for point in points])
    best: tuple[float, StepTime] | None = None
    for knee in (0.0, *sorted(set(rows.tolist()))):
        # T = overhead + row * max(knee, rows) + context: a knee beyond the last point is a flat roof.
        features = np.stack([np.ones(len(rows)), np.maximum(rows, knee), context], axis=1)
        scales = np.maximum(features.max(axis=0), 1.0)
        solved = fit_nonnegative(features, seconds, np.ones(len(rows)), scales, np.full(3, 1e-12))
        error = float(np.sum((features @ solved / seconds - 1.0) ** 2))
        if best is None or error < best[0] * (1.0 - 1e-9):
            base, row, token = (float(value) for value in solved)
            best = (error, StepTime(overhead_s=base, weights_s=row * knee, row_s=row, context_s=token))
    assert best is not None
    return best[1]
