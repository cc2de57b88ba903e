"""Remaining tokens against numerical integration and samples, and the promises about order and limits."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_seer.context.remaining import Exactly, LogNormal, hazard, mills, whole_mean

spreads = st.floats(0.01, 3.0)
centres = st.floats(0.0, 14.0)


@st.composite
def responses(draw: st.DrawFn) -> LogNormal:
    limit = draw(st.integers(1, 200_000))
    return LogNormal(draw(centres), draw(spreads), draw(st.integers(0, limit - 1)), limit)


def _integrated_mean(response: LogNormal) -> float:
    """E[min(length, limit) - generated] as the integral of the survival function, by the trapezoidal rule."""
    normal = NormalDist(response.centre, response.spread)
    start = max(response.generated_tokens, 1e-9)
    tokens = np.exp(np.linspace(math.log(start), math.log(response.limit_tokens), 20_001))
    survival = np.array([normal.cdf(2 * response.centre - math.log(t)) for t in tokens])
    return float(np.trapezoid(survival, tokens) / survival[0])


@pytest.mark.parametrize(
    "response",
    [
        LogNormal(7.0, 0.6, 0, 9000),
        LogNormal(7.0, 0.6, 500, 9000),
        LogNormal(7.0, 0.6, 8000, 9000),
        LogNormal(9.0, 1.5, 100, 4096),
        LogNormal(5.0, 0.3, 400, 100_000),
    ],
)
def test_mean_is_the_integral_of_survival(response: LogNormal) -> None:
    assert response.mean == pytest.approx(_integrated_mean(response), rel=1e-4)


def test_a_wrong_limit_would_be_seen() -> None:
    """The check above has the power to see a tail that is not cut."""
    uncut = LogNormal(9.0, 1.5, 100, 400_000)
    assert uncut.mean > 1.5 * _integrated_mean(LogNormal(9.0, 1.5, 100, 4096))


def test_quantiles_are_those_of_samples_that_got_this_far() -> None:
    rng = np.random.default_rng(0)
    lengths = np.exp(7 + 0.6 * rng.standard_normal(400_000))
    left = np.minimum(lengths[lengths > 1500], 9000) - 1500
    response = LogNormal(7.0, 0.6, 1500, 9000)
    for q in (0.1, 0.5, 0.9, 0.99):
        # Power: a spread of 0.65 instead of 0.6 moves the 0.9 quantile by 8%.
        assert response.quantile(q) == pytest.approx(float(np.quantile(left, q)), rel=0.03)


@given(responses(), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=500, deadline=None)
def test_within_the_limit_and_quantiles_grow(response: LogNormal, p: float, q: float) -> None:
    most = response.limit_tokens - response.generated_tokens
    low, high = sorted((p, q))
    assert 1 <= response.quantile(low) <= response.quantile(high) <= most
    assert 1 <= response.mean <= most
    assert response.quantile(1) == most


@given(responses(), st.data())
@settings(max_examples=500, deadline=None)
def test_more_generated_never_shortens_the_expected_total(response: LogNormal, data: st.DataObject) -> None:
    more = data.draw(st.integers(response.generated_tokens, response.limit_tokens - 1))
    later = LogNormal(response.centre, response.spread, more, response.limit_tokens)
    total = response.generated_tokens + response.mean
    assert more + later.mean >= total * (1 - 1e-6)


@given(st.floats(-37, 37), st.floats(0.001, 5))
def test_hazard_grows(z: float, step: float) -> None:
    assert hazard(z) <= hazard(z + step) * (1 + 1e-9)


def test_both_sides_of_the_series_agree() -> None:
    assert mills(26 - 1e-9) == pytest.approx(mills(26.0), rel=1e-8)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_no_such_quantile(q: float) -> None:
    for response in (Exactly(5.0), LogNormal(7.0, 0.6, 0, 9000)):
        with pytest.raises(ValueError, match="q: got"):
            response.quantile(q)


@given(st.floats(-1e6, 1e6), st.floats(0.005, 8000), st.integers(1, 100_000), st.data())
@settings(max_examples=500, deadline=None)
def test_no_estimate_is_beyond_a_float(centre: float, spread: float, limit: int, data: st.DataObject) -> None:
    """A fit to responses that were all cut at their limit may say anything; it must not end an engine."""
    assert 0 <= whole_mean(centre, spread, limit) <= limit * (1 + 1e-9)
    response = LogNormal(centre, spread, data.draw(st.integers(0, limit - 1)), limit)
    for tokens in (response.mean, *response.quantiles((0.0, 0.5, 0.999, 1.0))):
        assert 1 <= tokens <= limit - response.generated_tokens


def test_both_ways_to_a_whole_mean_agree() -> None:
    """At a spread that is as wide as the end is far."""
    for centre in (-1.0, 2.0, 6.0):
        for limit in (20, 2048):
            spread = math.sqrt(math.log(limit) - centre) if math.log(limit) > centre else 1.0
            below, above = (whole_mean(centre, spread * factor, limit) for factor in (1 - 1e-9, 1 + 1e-9))
            assert below == pytest.approx(above, rel=1e-6)
