"""Predicted against observed acceptance, in bins. Expected calibration error as in Guo et al. (ICML 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 20


class Calibration:
    """Counts of predictions by their value: how many, their sum, and how many came true."""

    def __init__(self) -> None:
        self.count = np.zeros(BINS)
        self.predicted = np.zeros(BINS)
        self.observed = np.zeros(BINS)

    def add(self, probabilities: npt.NDArray[np.float64], outcomes: npt.NDArray[np.bool_]) -> None:
        """Predictions and what happened, [n] each. Raises ValueError for a value that is no probability."""
        if len(probabilities) == 0:
            return
        # Single precision products may end a rounding error above 1.
        if not (probabilities.min() >= 0 and probabilities.max() <= 1 + 1e-5):
            seen = f"{probabilities.min()} to {probabilities.max()}"
            raise ValueError(f"probabilities: wanted values from 0 to 1, saw {seen}")
        places = np.minimum((probabilities * BINS).astype(int), BINS - 1)
        self.count += np.bincount(places, minlength=BINS)
        self.predicted += np.bincount(places, weights=probabilities, minlength=BINS)
        self.observed += np.bincount(places, weights=outcomes, minlength=BINS)

    def merge(self, other: Calibration) -> None:
        self.count += other.count
        self.predicted += other.predicted
        self.observed += other.observed

    def error(self) -> float | None:
        """Mean distance of predicted and observed share over the bins, weighted by count; None without predictions."""
        if self.count.sum() == 0:
            return None
        return float(np.abs(self.predicted - self.observed).sum() / self.count.sum())

    def curve(self) -> list[dict[str, Any]]:
        """The bins that hold something, for a plot."""
        return [
            {"predicted": p / n, "observed": o / n, "count": int(n)}
            for n, p, o in zip(self.count, self.predicted, self.observed, strict=True)
            if n
        ]
