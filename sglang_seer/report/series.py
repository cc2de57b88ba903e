"""Values over time from moments and spans: how many at once, how much a bin, what was said last. Pure numpy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def grid(start_s: float, end_s: float, bins: int) -> Floats:
    """[bins + 1] edges. Raises ValueError for no bin or an end that is not after the start."""
    if bins < 1:
        raise ValueError(f"bins: got {bins}, wanted at least 1")
    if not end_s > start_s:
        raise ValueError(f"end_s: got {end_s}, wanted more than start_s = {start_s}")
    return np.linspace(start_s, end_s, bins + 1)


def in_progress(begins_s: Sequence[float], ends_s: Sequence[float], times_s: Floats) -> npt.NDArray[np.int64]:
    """[times] how many spans [begin, end) hold each time."""
    begun = np.searchsorted(np.sort(np.asarray(begins_s, dtype=np.float64)), times_s, side="right")
    ended = np.searchsorted(np.sort(np.asarray(ends_s, dtype=np.float64)), times_s, side="right")
    return (begun - ended).astype(np.int64)


def count(moments_s: Sequence[float], edges_s: Floats) -> npt.NDArray[np.int64]:
    """[bins] how many moments lie in each bin; the last edge belongs to the last bin."""
    return np.histogram(np.asarray(moments_s, dtype=np.float64), bins=edges_s)[0].astype(np.int64)


def flow(begins_s: Sequence[float], ends_s: Sequence[float], amounts: Sequence[float], edges_s: Floats) -> Floats:
    """[bins] how much of the amounts falls into each bin, each spread evenly over its span.

    A span without a length counts where it is. What lies outside the edges is left out.
    """
    begins, ends, values = (np.asarray(one, dtype=np.float64) for one in (begins_s, ends_s, amounts))
    # The sum of all ramps up to a time is linear between the begins and ends, so it is known once it is known there.
    at_once = ends <= begins
    spread = ~at_once
    moments = np.unique(np.concatenate((begins[spread], ends[spread], edges_s)))
    slopes = np.zeros(len(moments))
    rates = values[spread] / (ends[spread] - begins[spread])
    np.add.at(slopes, np.searchsorted(moments, begins[spread]), rates)
    np.add.at(slopes, np.searchsorted(moments, ends[spread]), -rates)
    total = np.concatenate(([0.0], np.cumsum(np.cumsum(slopes)[:-1] * np.diff(moments))))
    # The slopes' sum ends a rounding error away from zero, on either side.
    found: Floats = np.maximum(np.diff(np.interp(edges_s, moments, total)), 0.0)
    found += np.histogram(begins[at_once], bins=edges_s, weights=values[at_once])[0]
    return found


def last_said(moments_s: Sequence[float], values: Sequence[float], times_s: Floats) -> Floats:
    """[times] the newest value at each time, NaN before the first. The moments ascend."""
    if not len(moments_s):
        return np.full(len(times_s), np.nan)
    at = np.searchsorted(np.asarray(moments_s, dtype=np.float64), times_s, side="right") - 1
    return np.where(at >= 0, np.asarray(values, dtype=np.float64)[np.maximum(at, 0)], np.nan)
