"""How much of one unfinished response is still to come: a distribution, conditioned on what was generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import erfc, exp, inf, log, log1p, pi, sqrt
from statistics import NormalDist
from typing import Protocol

_SQRT_HALF = sqrt(0.5)
_SQRT_HALF_PI = sqrt(0.5 * pi)
# Beyond this many standard deviations erfc loses its digits, and the asymptotic series has ten of them.
_FAR = 26.0
_inverse_cdf = NormalDist().inv_cdf


class Remaining(Protocol):
    """Tokens still to come of one unfinished response: at least 1, at most its limit less what was generated."""

    @property
    def mean(self) -> float: ...

    @property
    def shared(self) -> float:
        """Share of the doubt, 0 to 1, that all unfinished siblings have in common."""
        ...

    def quantile(self, q: float) -> float:
        """The number of tokens that is not exceeded with probability q, 0 <= q <= 1."""
        ...

    def quantiles(self, levels: Sequence[float]) -> tuple[float, ...]:
        """`quantile` of each level, for less than one at a time."""
        ...


def mills(z: float) -> float:
    """Survival of the standard normal distribution over its density, for z > -38."""
    if z < _FAR:
        return _SQRT_HALF_PI * erfc(z * _SQRT_HALF) * exp(0.5 * z * z)
    square = 1 / (z * z)
    return (1 - square * (1 - square * (3 - square * 15))) / z


def hazard(z: float) -> float:
    """Density of the standard normal distribution over its survival: how strongly "beyond z" pulls upwards."""
    return 1 / mills(z) if z > -37 else 0.0


def check_tokens(generated_tokens: int, limit_tokens: int) -> None:
    """Raises ValueError unless 0 <= generated < limit."""
    if not 0 <= generated_tokens < limit_tokens:
        raise ValueError(
            f"generated_tokens: got {generated_tokens}, wanted 0 to {limit_tokens - 1} (below limit_tokens)"
        )


def check_quantile(q: float) -> None:
    if not 0 <= q <= 1:
        raise ValueError(f"q: got {q}, wanted 0 to 1")


def whole_mean(centre: float, spread: float, limit_tokens: int) -> float:
    """E[min(length, limit)] of a whole response whose log length is normal."""
    end = (log(limit_tokens) - centre) / spread
    cut = 0.5 * limit_tokens * erfc(end * _SQRT_HALF)
    if spread > end:
        # Where most are cut: the mean of the uncut ones alone may be beyond any float.
        return cut + 0.5 * limit_tokens * exp(-0.5 * end * end) * mills(spread - end) / _SQRT_HALF_PI
    return cut + 0.5 * exp(centre + 0.5 * spread * spread) * erfc((spread - end) * _SQRT_HALF)


@dataclass(frozen=True, slots=True)
class Exactly:
    """A guess that knows no doubt."""

    mean: float
    shared: float = 0.0

    def quantile(self, q: float) -> float:
        return self.quantiles((q,))[0]

    def quantiles(self, levels: Sequence[float]) -> tuple[float, ...]:
        for q in levels:
            check_quantile(q)
        return (self.mean,) * len(levels)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Remaining tokens of a response whose log length is normal, longer than `generated` and cut at `limit`.

    centre, spread: mean and standard deviation of the log of the uncut length in tokens. spread > 0. shared: share of
    spread squared that is doubt about the prompt, not about the sample.
    """

    centre: float
    spread: float
    generated_tokens: int
    limit_tokens: int
    shared: float = 0.0

    def _within(self, total_tokens: float) -> float:
        return min(max(total_tokens - self.generated_tokens, 1.0), float(self.limit_tokens - self.generated_tokens))

    @property
    def mean(self) -> float:
        """E[min(length, limit) | length > generated] - generated, in closed form through ratios of tails."""
        # A factor of e^8 tells nothing of a length any more; the difference of tails below would lose its digits.
        spread, limit = min(self.spread, 8.0), self.limit_tokens
        end = (log(limit) - self.centre) / spread
        begun = (log(self.generated_tokens) - self.centre) / spread if self.generated_tokens else -inf
        if begun > -8:
            head = self.generated_tokens * mills(begun - spread)
            cut = exp(0.5 * (begun - end) * (begun + end)) * limit * (mills(end - spread) - mills(end))
            return self._within((head - cut) / mills(begun))
        # What was generated says nothing yet.
        return self._within(whole_mean(self.centre, spread, limit))

    def quantile(self, q: float) -> float:
        return self.quantiles((q,))[0]

    def quantiles(self, levels: Sequence[float]) -> tuple[float, ...]:
        return _quantiles(self.centre, self.spread, self.generated_tokens, self.limit_tokens, tuple(levels))


# Kept, because of most groups of those that wait the same is known: nothing.
@lru_cache(maxsize=4096)
def _quantiles(
    centre: float, spread: float, generated_tokens: int, limit_tokens: int, levels: tuple[float, ...]
) -> tuple[float, ...]:
    most, end = float(limit_tokens - generated_tokens), log(limit_tokens)
    begun = (log(generated_tokens) - centre) / spread if generated_tokens else -inf
    far = begun > _FAR
    pull = hazard(begun) if far else 0.0
    survives = 0.5 * erfc(begun * _SQRT_HALF)
    points = []
    for q in levels:
        check_quantile(q)
        if q == 1:
            points.append(most)
            continue
        if far:
            # So far out the tail is exponential.
            place = begun - log1p(-q) / pull
        else:
            beyond = (1 - q) * survives
            place = -_inverse_cdf(beyond) if beyond < 1 else -inf
        # Past the limit there is nothing to tell apart, and exp must not overflow.
        total = exp(min(centre + spread * place, end))
        points.append(min(max(total - generated_tokens, 1.0), most))
    return tuple(points)
