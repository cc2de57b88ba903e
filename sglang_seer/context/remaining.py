"""How much of one unfinished response is still to come: a distribution, conditioned on what was generated."""

from __future__ import annotations

from dataclasses import dataclass
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

    def quantile(self, q: float) -> float:
        """The number of tokens that is not exceeded with probability q, 0 <= q <= 1."""
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
    uncut = exp(centre + 0.5 * spread * spread) * erfc((spread - end) * _SQRT_HALF)
    return 0.5 * (uncut + limit_tokens * erfc(end * _SQRT_HALF))


@dataclass(frozen=True, slots=True)
class Exactly:
    """A guess that knows no doubt."""

    mean: float

    def quantile(self, q: float) -> float:
        check_quantile(q)
        return self.mean


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Remaining tokens of a response whose log length is normal, longer than `generated` and cut at `limit`.

    centre, spread: mean and standard deviation of the log of the uncut length in tokens. spread > 0.
    """

    centre: float
    spread: float
    generated_tokens: int
    limit_tokens: int

    def _within(self, total_tokens: float) -> float:
        return min(max(total_tokens - self.generated_tokens, 1.0), float(self.limit_tokens - self.generated_tokens))

    @property
    def mean(self) -> float:
        """E[min(length, limit) | length > generated] - generated, in closed form through ratios of tails."""
        spread, limit = self.spread, self.limit_tokens
        end = (log(limit) - self.centre) / spread
        begun = (log(self.generated_tokens) - self.centre) / spread if self.generated_tokens else -inf
        if begun > -8:
            head = self.generated_tokens * mills(begun - spread)
            cut = exp(0.5 * (begun - end) * (begun + end)) * limit * (mills(end - spread) - mills(end))
            return self._within((head - cut) / mills(begun))
        # What was generated says nothing yet.
        return self._within(whole_mean(self.centre, spread, limit))

    def quantile(self, q: float) -> float:
        check_quantile(q)
        if q == 1:
            return float(self.limit_tokens - self.generated_tokens)
        survives = 1 - q
        begun = (log(self.generated_tokens) - self.centre) / self.spread if self.generated_tokens else -inf
        if begun > _FAR:
            # So far out the tail is exponential.
            place = begun - log1p(-q) / hazard(begun)
        else:
            beyond = survives * 0.5 * erfc(begun * _SQRT_HALF)
            place = -_inverse_cdf(beyond) if beyond < 1 else -inf
        # Past the limit there is nothing to tell apart, and exp must not overflow.
        log_total = min(self.centre + self.spread * place, log(self.limit_tokens))
        return self._within(exp(log_total))
