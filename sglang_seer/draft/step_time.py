"""What a step costs: T(B, nodes) and D(B, nodes) of Seer (OSDI 2026, section 3.4.1), learnt from measured steps.

    T = base + verify [a step with draft nodes] + request * B + context * C + mask * C * nodes a request + rows(R)

R token rows, B requests, C tokens of context over the batch. Reading the KV cache is often the larger part of a
decode step, and the context of a width that was measured long ago was another one, so it has its own term. rows(R) is
monotone and piecewise linear, two pieces an octave: flat up to the knee of a dense model, rising early for a mixture
of experts that more rows wake up. All coefficients are non-negative. They are fitted to one measurement a region of
(B, R, C): the lower median of the newest few there, so that outliers (a prefill in between, garbage collection, a
first compilation) count for nothing as long as they are fewer than half. The newest regions weigh most.

Above the most rows ever measured, time is taken to grow in proportion to the rows, which is the worst case: the step
could be cut in two.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from sglang_seer.draft.least_squares import fit_nonnegative

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64Array = NDArray[np.int64]
    Float64Array = NDArray[np.float64]

PROFILE_VERSION = 1
_KNOTS = 2.0 ** np.arange(0, 16.5, 0.5)  # rows; two an octave up to 65,536
_PIECES = np.diff(_KNOTS)
MOST_REGIONS = 512
# Pull of each coefficient towards 0, which decides what the measurements leave open: time is put into the base before
# anything else, into the rows, which a width pays for, before the requests, which it does not, and into the mask last,
# because what a width cost at one length of context would grow with the context.
_PULL = 1e-6
_SHORTEST = 0.1  # of the fastest step measured


class StepObservation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured decode step.

    batch: requests. rows: token rows, roots and padding included. context: tokens in the KV cache of all requests
    together. seconds: without drafting.
    """

    batch: int
    rows: int
    context: int
    seconds: float


class DraftObservation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured draft: `nodes` asked for each of `batch` requests."""

    batch: int
    nodes: int
    seconds: float


class _Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    steps: list[StepObservation]
    drafts: list[DraftObservation]


_Features = tuple[int, ...]


@dataclass(slots=True)
class _Region:
    """Measurements of similar sizes. window: (seconds, features) of the newest. last: when the newest was taken."""

    window: deque[tuple[float, _Features]]
    last: int = 0

    def typical(self) -> tuple[float, _Features]:
        """The lower median by time: of two measurements the faster one, because outliers are slow."""
        return sorted(self.window)[(len(self.window) - 1) // 2]


@dataclass(slots=True)
class _Regions:
    """Measurements by region; when there are too many, the one that was measured longest ago goes."""

    window: int
    half_life: float
    by_key: dict[_Features, _Region] = field(default_factory=dict)  # in the order of `last`
    clock: int = 0

    def add(self, key: _Features, features: _Features, seconds: float) -> None:
        self.clock += 1
        region = self.by_key.pop(key, None) or _Region(deque(maxlen=self.window))
        region.window.append((seconds, features))
        region.last = self.clock
        self.by_key[key] = region
        if len(self.by_key) > MOST_REGIONS:
            del self.by_key[next(iter(self.by_key))]

    def table(self) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Features [n, f], seconds [n] and weights [n] of all regions."""
        measured = [region.typical() for region in self.by_key.values()]
        last = np.array([region.last for region in self.by_key.values()])
        counts = np.array([len(region.window) for region in self.by_key.values()])
        features = np.array([features for _, features in measured], dtype=np.float64)
        weights = counts * 0.5 ** ((self.clock - last) / self.half_life)
        return features, np.array([seconds for seconds, _ in measured]), weights


class StepTimes:
    """The cost model of one engine. The same observations in the same order give the same times."""

    def __init__(self, *, window: int = 9, half_life: int = 8192) -> None:
        """Make an empty model.

        Args:
            window: measurements remembered of each region, 1 to 1000.
            half_life: observations after which a region that is not measured any more counts half, 1 or more.

        Raises:
            ValueError: a value is out of its range.
        """
        if not 1 <= window <= 1000:
            raise ValueError(f"window: got {window}, wanted 1 to 1000")
        if not half_life >= 1:
            raise ValueError(f"half_life: got {half_life}, wanted 1 or more")
        self._steps = _Regions(window, half_life)
        self._drafts = _Regions(window, half_life)
        self._step_fit: _StepFit | None = None
        self._draft_fit: Float64Array | None = None

    @property
    def num_observations(self) -> int:
        """Steps observed so far."""
        return self._steps.clock

    def observe(self, steps: Sequence[StepObservation], drafts: Sequence[DraftObservation] = ()) -> None:
        """Learn from measurements. Raises ValueError, and learns nothing, if one of them is impossible."""
        for i, step in enumerate(steps):
            if not (step.batch >= 1 and step.rows >= step.batch and step.context >= 0 and _is_time(step.seconds)):
                raise ValueError(
                    f"steps[{i}]: got {step}, wanted batch >= 1, rows >= batch, context >= 0 and positive seconds"
                )
        for i, draft in enumerate(drafts):
            if not (draft.batch >= 1 and draft.nodes >= 1 and _is_time(draft.seconds)):
                raise ValueError(f"drafts[{i}]: got {draft}, wanted batch >= 1, nodes >= 1 and positive seconds")
        for step in steps:
            key: _Features = (
                step.rows > step.batch,
                _half_octave(step.batch),
                _half_octave(step.rows),
                step.context.bit_length(),
            )
            self._steps.add(key, (step.batch, step.rows, step.context), step.seconds)
        for draft in drafts:
            size = (_half_octave(draft.batch), _half_octave(draft.nodes))
            self._drafts.add(size, (draft.batch, draft.nodes), draft.seconds)
        self._step_fit = self._step_fit if not steps else None
        self._draft_fit = self._draft_fit if not drafts else None

    def seconds(self, batch: int, rows: Int64Array, *, context: int) -> Float64Array:
        """[n] seconds of steps of `batch` requests with [n] token rows each; `context` tokens in the KV cache.

        Rises with the rows, never falls. Before the first observation it is the number of rows.
        """
        if batch < 1 or rows.min(initial=batch) < batch or context < 0:
            raise ValueError(
                f"batch, rows, context: got {batch}, {rows.min(initial=batch)} and more, {context}; "
                "wanted batch >= 1, rows >= batch, context >= 0"
            )
        if self._steps.clock == 0:
            return rows.astype(np.float64)
        if self._step_fit is None:
            self._step_fit = _fit_steps(*self._steps.table())
        return self._step_fit.seconds(batch, rows, context)

    def draft_seconds(self, batch: int, nodes: int) -> float:
        """Seconds of a draft with `nodes` nodes for each of `batch` requests; 0 before the first observation."""
        if batch < 1 or nodes < 0:
            raise ValueError(f"batch, nodes: got {batch}, {nodes}, wanted batch >= 1, nodes >= 0")
        if self._drafts.clock == 0 or nodes == 0:
            return 0.0
        if self._draft_fit is None:
            features, seconds, weights = self._drafts.table()
            columns = _draft_columns(features[:, 0], features[:, 1])
            self._draft_fit = fit_nonnegative(columns, seconds, weights, columns.max(axis=0), np.full(3, _PULL))
        (columns,) = _draft_columns(np.array([batch]), np.array([nodes]))
        return float(columns @ self._draft_fit)

    def typical_steps(self) -> list[StepObservation]:
        """The typical measurement of each region."""
        steps = [region.typical() for region in self._steps.by_key.values()]
        return [StepObservation(batch=b, rows=r, context=c, seconds=s) for s, (b, r, c) in steps]

    def save(self, path: str | Path) -> None:
        """Write what was measured as a JSON profile: the typical measurement of each region."""
        drafts = [region.typical() for region in self._drafts.by_key.values()]
        profile = _Profile(
            version=PROFILE_VERSION,
            steps=self.typical_steps(),
            drafts=[DraftObservation(batch=b, nodes=n, seconds=s) for s, (b, n) in drafts],
        )
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")

    @classmethod
    def load(cls, path: str | Path, *, window: int = 9, half_life: int = 8192) -> StepTimes:
        """A model that starts from a profile. What is measured from now on replaces it region by region.

        Raises ValueError naming the file, what was seen and what was wanted.
        """
        times = cls(window=window, half_life=half_life)
        try:
            profile = msgspec.json.decode(Path(path).read_bytes(), type=_Profile)
            if profile.version != PROFILE_VERSION:
                raise ValueError(f"version: got {profile.version}, wanted {PROFILE_VERSION}")
            times.observe(profile.steps, profile.drafts)
        except OSError as error:
            raise ValueError(f"step time profile {str(path)!r}: cannot read it: {error.strerror}") from error
        except ValueError as error:  # msgspec's errors are ValueErrors
            raise ValueError(f"step time profile {str(path)!r}: {error}") from error
        return times


@dataclass(frozen=True, slots=True, eq=False)
class _StepFit:
    """coefficients: [5] of the terms other than the rows. at_knots: [knots] seconds of the rows' term.

    shortest: seconds; no step is taken to be faster, however far from the measurements it is.
    """

    coefficients: Float64Array
    at_knots: Float64Array
    most_rows: float
    shortest: float

    def seconds(self, batch: int, rows: Int64Array, context: int) -> Float64Array:
        terms = _step_columns(np.float64(batch), rows, np.float64(context))
        times = terms @ self.coefficients + np.interp(rows, _KNOTS, self.at_knots)
        slower: Float64Array = np.maximum(times, self.shortest) * np.maximum(1.0, rows / self.most_rows)
        return slower


def _fit_steps(features: Float64Array, seconds: Float64Array, weights: Float64Array) -> _StepFit:
    batch, rows, context = features.T
    others = _step_columns(batch, rows, context)
    # Rows of each piece of the rows' axis that a step fills; its coefficient is a slope, in seconds a row.
    filled = np.clip(rows[:, None] - _KNOTS[:-1], 0.0, _PIECES)
    columns = np.concatenate([others, filled], axis=1)
    most_rows = float(rows.max())
    # Equal slopes of neighbouring pieces are the cheapest way to the same time: straight lines between measurements.
    scales = np.concatenate([np.maximum(others.max(axis=0), 1.0), np.sqrt(_PIECES * most_rows)])
    pulls = np.concatenate([np.array([1e-3, 1.0, 10.0, 1.0, 1e3]), np.ones(len(_PIECES))]) * _PULL
    fitted = fit_nonnegative(columns, seconds, weights, scales, pulls)
    at_knots = np.concatenate([np.zeros(1), np.cumsum(fitted[5:] * _PIECES)])
    return _StepFit(fitted[:5], at_knots, most_rows, _SHORTEST * float(seconds.min()))


def _step_columns(batch: Any, rows: Any, context: Any) -> Float64Array:
    """[n, 5]: base, verify, request, context, mask."""
    terms = np.empty((len(rows), 5))
    terms[:, 0] = 1.0
    terms[:, 1] = rows > batch
    terms[:, 2] = batch
    terms[:, 3] = context
    terms[:, 4] = context * (rows / batch - 1.0)
    return terms


def _draft_columns(batch: NDArray[np.number[Any]], nodes: NDArray[np.number[Any]]) -> Float64Array:
    """[n, 3]: base, request, node."""
    return np.stack([np.ones(len(batch)), batch, batch * nodes], axis=1).astype(np.float64)


def _half_octave(number: int) -> int:
    return (number * number).bit_length()


def _is_time(seconds: float) -> bool:
    return math.isfinite(seconds) and seconds > 0.0
