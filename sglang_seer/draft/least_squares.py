"""Robust least squares with coefficients that cannot be negative, for step times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]

_PASSES = 3
_USUAL = 0.05  # relative error of an ordinary measurement


def fit_nonnegative(
    columns: Float64Array, seconds: Float64Array, weights: Float64Array, scales: Float64Array, pulls: Float64Array
) -> Float64Array:
    """[f] coefficients >= 0 with columns @ coefficients close to the seconds, outliers apart.

    columns: [n, f], >= 0. seconds: [n], positive; errors count in proportion to them. weights: [n], of squared errors.
    pulls: [f], how strongly a coefficient times its scale ([f]) is pulled to 0; they decide what the data leave open.
    """
    scaled = columns / scales / seconds[:, None]
    unit = float(np.median(seconds))
    trust = np.ones(len(seconds))
    fitted = np.zeros(columns.shape[1])
    for _ in range(_PASSES):
        shares = weights * trust / np.sum(weights * trust)
        gram = scaled.T @ (scaled * shares[:, None]) * unit**2 + np.diag(pulls)
        moment = scaled.T @ shares * unit
        fitted = nonnegative_minimum(gram, moment, fitted)
        # Cauchy weights: what lies far from the others in relation to `_USUAL` counts little.
        predicted = np.maximum(scaled @ fitted * unit, 1e-6)
        trust = 1.0 / (1.0 + ((1.0 - 1.0 / predicted) / _USUAL) ** 2)
    return fitted * unit / scales


def nonnegative_minimum(gram: Float64Array, moment: Float64Array, start: Float64Array) -> Float64Array:
    """x >= 0, [f], that minimises x'Gx/2 - m'x, from the guess `start`.

    gram: G, [f, f], positive definite. moment: m, [f].

    The active set method of Lawson and Hanson (Solving Least Squares Problems, 1974, chapter 23).
    """
    solution = start.copy()
    free = solution > 0.0
    tolerance = 1e-13 * float(np.abs(moment).max(initial=0.0))
    for _ in range(3 * len(moment)):
        while free.any():
            places = np.flatnonzero(free)
            step = np.linalg.solve(gram[np.ix_(places, places)], moment[places])
            blocked = np.flatnonzero(step <= 0.0)
            if not len(blocked):
                solution[places] = step
                break
            # Go towards the step until the first coefficient reaches 0, and hold it there.
            now = solution[places]
            shares = now[blocked] / (now[blocked] - step[blocked])
            now = np.maximum(now + shares.min() * (step - now), 0.0)
            now[blocked[np.argmin(shares)]] = 0.0
            solution[places] = now
            free[places[now == 0.0]] = False
        gradient = np.where(free, -np.inf, moment - gram @ solution)
        if gradient.max() <= tolerance:
            break
        free[np.argmax(gradient)] = True
    return solution
