"""Tokens a step of speculative decoding, by how many siblings of a request have finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# Mean acceptance length, bonus token included, of n-gram drafting for Qwen2-VL-72B with one path, by the number of
# finished siblings (Seer, OSDI 2026, section 2; measured by the paper, taken for all models here).
PAPER_LINEAR = {0: 1.70, 1: 2.04, 5: 2.32, 15: 2.53}
# The longest draft of the paper (section 3.4).
PAPER_LONGEST_DRAFT = 8


@dataclass(frozen=True)
class Acceptance:
    """points: acceptance length with drafts of `longest` tokens, by finished siblings; linear between the points, and
    flat behind the last, where nothing was measured.

    A draft position is taken to be accepted with the same probability alpha as the one before it, so that a draft of g
    tokens yields (1 - alpha^(g+1)) / (1 - alpha) tokens (the paper's model, algorithm 1).
    """

    points: Mapping[int, float]
    longest: int = PAPER_LONGEST_DRAFT

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise ValueError(f"longest draft: got {self.longest}, wanted at least 1")
        if 0 not in self.points:
            raise ValueError(f"acceptance: got values for {sorted(self.points)} siblings, wanted one for 0")
        for siblings, length in self.points.items():
            if siblings < 0 or not 1.0 <= length < self.longest + 1:
                raise ValueError(
                    f"acceptance: got {length} with {siblings} siblings, wanted 1 to {self.longest + 1} tokens a step"
                )

    @property
    def classes(self) -> int:
        """Classes of requests: by finished siblings, from 0 to the last point."""
        return max(self.points) + 1

    def class_of(self, finished_siblings: int) -> int:
        return min(finished_siblings, self.classes - 1)

    @cached_property
    def tokens(self) -> NDArray[np.float64]:
        """[longest + 1, classes] expected tokens of a step, by draft length and class."""
        known = sorted(self.points)
        at_longest = np.interp(np.arange(self.classes), known, [self.points[n] for n in known])
        table = np.empty((self.longest + 1, self.classes))
        for column, length in enumerate(at_longest):
            alpha = _alpha(float(length), self.longest)
            table[:, column] = np.cumsum(alpha ** np.arange(self.longest + 1))
        return table


def _alpha(length: float, longest: int) -> float:
    """Acceptance probability of a position at which drafts of `longest` tokens yield `length`; by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if sum(middle**power for power in range(longest + 1)) < length:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


NO_SPECULATION = np.ones((1, 1))


def paper() -> Acceptance:
    """The paper's curve for one path."""
    return Acceptance(PAPER_LINEAR)


def points_from(values: Sequence[float]) -> dict[int, float]:
    """Points for 0, 1, 2, ... finished siblings."""
    return dict(enumerate(values))
