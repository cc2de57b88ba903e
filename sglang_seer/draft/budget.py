"""The speculation budget: which nodes of a batch's draft trees one step verifies, and how wide the step is.

    worth of a step    sum over requests of priority * (1 + sum of its kept nodes' path probabilities)
    price of a step    seconds of the forward over all its token rows, and of drafting
    budget             the nodes with the highest worth per second of the whole batch

A node's path probability is what it adds to the expected tokens of a step, so the best k nodes of a batch are its k
most probable ones (water-filling: one level over all requests), and they form valid trees because no node is more
probable than its parent. `marginal_benefit` is the policy of Seer (OSDI 2026, section 3.4.2), which knows acceptance
by position and two classes of requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    BoolArray = NDArray[np.bool_]
    Int64Array = NDArray[np.int64]
    Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """Which nodes of a proposal are verified.

    keep: [num_nodes] bool, for `Proposal.select`. counts: [num_requests] int64, kept nodes of each request. width:
    nodes beyond the root that a padded step has for every request; 0 is plain decoding. expected_tokens: of the step,
    bonus tokens included.
    """

    keep: BoolArray
    counts: Int64Array
    width: int
    expected_tokens: float


class Candidates:
    """The draft nodes of one batch, ranked. Ties go to the smaller request, then to the smaller node."""

    def __init__(
        self,
        probabilities: ArrayLike,
        starts: ArrayLike,
        *,
        priorities: ArrayLike | None = None,
        min_probability: float = 0.0,
    ) -> None:
        """Rank the nodes of a batch.

        Args:
            probabilities: [num_nodes] float, that a node's whole path is accepted; never above its parent's.
            starts: [num_requests + 1] int, request i has nodes ``starts[i]:starts[i + 1]``, parents first.
            priorities: [num_requests] float, worth of a token of each request; 1 if left out.
            min_probability: nodes below it, and nodes that are never accepted, are not kept; 0 to 1.

        Raises:
            ValueError: a value is out of its range or sizes disagree; the message names the field.
        """
        values, first, weights = _checked(probabilities, starts, priorities)
        if not 0.0 <= min_probability <= 1.0:
            raise ValueError(f"min_probability: got {min_probability}, wanted 0 to 1")
        counts = np.diff(first)
        self._probabilities = values
        self._inside = np.arange(counts.max()) < counts[:, None]  # [num_requests, most nodes]
        self._weights = weights
        self._bonus = float(np.cumsum(weights)[-1])
        # Worth of each node, 0 for padding and for what is never kept.
        self._worths = np.zeros(self._inside.shape)
        self._worths[self._inside] = np.where(values >= min_probability, values, 0.0)
        self._worths *= weights[:, None]
        self._ranked = np.sort(self._worths, axis=1)[:, ::-1]
        # Sums in a fixed order, so that every machine gets the same bits.
        by_rank = np.add.reduce(self._ranked, axis=0)
        self._worth_of_width = self._bonus + np.concatenate([np.zeros(1), np.cumsum(by_rank)])

    @property
    def num_requests(self) -> int:
        """Requests of the batch."""
        return len(self._inside)

    def worth(self, widths: Int64Array) -> Float64Array:
        """Worth of a step in which every request has its `width` most probable nodes; widths and result [n]."""
        worths: Float64Array = self._worth_of_width[np.minimum(widths, len(self._worth_of_width) - 1)]
        return worths

    def worth_by_total(self, width: int) -> Float64Array:
        """[n + 1]: worth of a step with the best 0, 1, ... n nodes of the batch, at most `width` of a request."""
        best = self._ranked[:, :width].ravel()
        best = np.sort(best[best > 0.0])[::-1]
        worths: Float64Array = self._bonus + np.concatenate([np.zeros(1), np.cumsum(best)])
        return worths

    def widest(self, width: int) -> Allocation:
        """Keep the `width` most probable nodes of every request."""
        if width < 0:
            raise ValueError(f"width: got {width}, wanted 0 or more")
        return self._allocation(self._best_of_each(width), width)

    def spend(self, total: int, width: int, *, diminishing: bool = False) -> Allocation:
        """Keep the `total` most worthy nodes of the batch, at most `width` of a request.

        diminishing: divide a node's worth by the tokens that its request can already expect from its better nodes.
            That maximises progress in steps saved rather than in tokens of this step: a predictable passage goes
            quickly anyway, what it does not get now is as probable in the next step.
        """
        if total < 0 or width < 0:
            raise ValueError(f"total, width: got {total}, {width}, wanted 0 or more")
        keep = self._best_of_each(width)
        spare = int(np.count_nonzero(keep)) - total
        if spare > 0:
            worths = (self._diminishing_worths() if diminishing else self._worths)[keep]
            level = np.partition(worths, spare - 1)[spare - 1]  # the best worth that is not, or not wholly, kept
            chosen = worths > level
            chosen[np.flatnonzero(worths == level)[: total - np.count_nonzero(chosen)]] = True
            keep[keep] = chosen
        return self._allocation(keep, None)

    def _diminishing_worths(self) -> Float64Array:
        """[num_requests, most nodes]: worth over expected tokens, which falls in the same order as the worth."""
        order = np.argsort(-self._worths, axis=1, kind="stable")
        expected = np.ones(self._worths.shape)
        expected[:, 1:] += np.cumsum(self._ranked[:, :-1] / self._weights[:, None], axis=1)
        worths = np.empty(self._worths.shape)
        np.put_along_axis(worths, order, self._ranked / expected, axis=1)
        return worths

    def _best_of_each(self, width: int) -> BoolArray:
        """[num_requests, most nodes] the best `width` nodes of each row."""
        keep: BoolArray = self._worths > 0.0
        if width >= self._inside.shape[1]:
            return keep
        if width == 0:
            return np.zeros_like(keep)
        level = self._ranked[:, width - 1 : width]
        above = self._worths > level
        tied = self._worths == level
        left = width - np.count_nonzero(above, axis=1)
        tied &= np.cumsum(tied, axis=1, dtype=np.int32) <= left[:, None]
        keep &= above | tied
        return keep

    def _allocation(self, keep: BoolArray, width: int | None) -> Allocation:
        counts = np.count_nonzero(keep, axis=1)
        flat = keep[self._inside]
        if width is None:
            width = int(counts.max())
        expected = len(counts) + float(np.add.reduce(self._probabilities[flat]))
        return Allocation(keep=flat, counts=counts, width=width, expected_tokens=expected)


def allocate(
    candidates: Candidates,
    seconds: Callable[[Int64Array], Float64Array],
    widths: Sequence[int],
    *,
    ragged: bool = False,
    draft_seconds: float = 0.0,
    previous_width: int | None = None,
    margin: float = 0.0,
) -> Allocation:
    """The allocation with the most worth per second; the smaller step if two have the same.

    Args:
        seconds: maps [n] int64 token rows of a step, roots included and rising, to [n] its seconds.
        widths: nodes beyond the root that a step may have for every request, rising from 0.
        ragged: a step pays for the nodes it keeps; otherwise for every request as wide as the step.
        draft_seconds: what drafting cost, paid whatever is chosen.
        previous_width: stay with this width unless the best one is better by more than `margin` (a share), because a
            captured graph may have to be swapped for another width. For padded steps.

    Raises:
        ValueError: `widths`, `margin` or `draft_seconds` is out of range, or a time is not positive.
    """
    options = check_widths(widths)
    if not (draft_seconds >= 0.0 and margin >= 0.0):
        raise ValueError(f"draft_seconds, margin: got {draft_seconds}, {margin}, wanted 0 or more")
    batch = candidates.num_requests
    if ragged:
        worths = candidates.worth_by_total(int(options[-1]))
        rates = worths / (_times(seconds, batch + np.arange(len(worths))) + draft_seconds)
        return candidates.spend(int(np.argmax(rates)), int(options[-1]))
    rates = candidates.worth(options) / (_times(seconds, batch * (1 + options)) + draft_seconds)
    best = int(np.argmax(rates))
    if previous_width is not None:
        stay = np.flatnonzero(options == previous_width)
        if len(stay) and rates[best] <= rates[stay[0]] * (1.0 + margin):
            best = int(stay[0])
    return candidates.widest(int(options[best]))


def tail_priorities(remaining_tokens: Float64Array, *, factor: float = 2.0) -> Float64Array:
    """[num_requests]: worth of a token of each request, `factor` for those that others wait for in the end, else 1.

    Those are requests of which nothing is known, such as probes, and requests that will run for more than twice as
    long as the median of the others (the paper's factor is 2, appendix A.2).

    remaining_tokens: [num_requests], as finished siblings say; nan where none is finished.
    """
    known = ~np.isnan(remaining_tokens)
    typical = np.median(remaining_tokens[known]) if known.any() else 0.0
    return np.where(known & ~(remaining_tokens > 2.0 * typical), 1.0, factor)


def marginal_benefit(
    high: int, low: int, acceptance: Sequence[float], step_seconds: Sequence[float], *, priority: float = 2.0
) -> tuple[int, int]:
    """Draft lengths of high-priority and of other requests: Seer's algorithm 1 (OSDI 2026, section 3.4.2), as printed.

    The total is the best common length times the batch size. The high class starts with one token, the low class with
    none, and the rest goes out one position of one class at a time: to the high class if its drop of acceptance at
    that position, times its size, is more than `priority` times that of the low class, else to the low class.

    Args:
        high: requests with priority (probes). The first result means nothing if there are none.
        low: the other requests.
        acceptance: [n] probability that draft position 1, 2, ... is accepted; position 0 is certain, later ones are 0.
        step_seconds: [longest draft + 1] seconds of a step with 0, 1, ... drafted tokens for every request, the draft
            included: D(B, gamma) + T(B, gamma) of the paper.

    Raises:
        ValueError: a value is out of its range; the message names the field.
    """
    longest = len(step_seconds) - 1
    if high < 0 or low < 0 or high + low == 0:
        raise ValueError(f"high, low: got {high}, {low}, wanted sizes of a batch with at least one request")
    if longest < 1 or len(acceptance) < longest:
        raise ValueError(
            f"acceptance, step_seconds: got {len(acceptance)} positions and {longest + 1} times, "
            "wanted at least 2 times and a position for all but the first of them"
        )
    if not all(0.0 <= beta <= 1.0 for beta in acceptance):
        raise ValueError(f"acceptance: got {list(acceptance)}, wanted probabilities")
    if not all(0.0 < seconds < np.inf for seconds in step_seconds):
        raise ValueError(f"step_seconds: got {list(step_seconds)}, wanted positive times")
    if not priority >= 1.0:
        raise ValueError(f"priority: got {priority}, wanted 1 or more")
    beta = [1.0, *acceptance, 0.0]
    alpha = sum(beta[1 : longest + 1]) / longest
    tokens = np.cumsum(alpha ** np.arange(longest + 1))  # (1 - alpha^(gamma + 1)) / (1 - alpha)
    total = int(np.argmin(np.asarray(step_seconds) / tokens)) * (high + low)
    if total < high:
        return 0, 0
    of_high, of_low, remaining = 1, 0, total - high
    while remaining > 0:
        benefit_high = high * (beta[of_high] - beta[of_high + 1])
        benefit_low = low * (beta[of_low] - beta[of_low + 1])
        if benefit_high > priority * benefit_low and of_high < longest and remaining >= high:
            of_high += 1
            remaining -= high
        elif low > 0 and of_low < longest and remaining >= low:
            of_low += 1
            remaining -= low
        else:
            break
    return of_high, of_low


def check_widths(widths: Sequence[int]) -> Int64Array:
    """[n] int64; ValueError unless they rise strictly from 0."""
    options = np.array(widths, dtype=np.int64)
    if options.ndim != 1 or len(options) == 0 or options[0] != 0 or np.any(np.diff(options) <= 0):
        raise ValueError(f"widths: got {widths}, wanted numbers that rise strictly from 0")
    return options


def _checked(
    probabilities: ArrayLike, starts: ArrayLike, priorities: ArrayLike | None
) -> tuple[Float64Array, Int64Array, Float64Array]:
    values = np.asarray(probabilities, dtype=np.float64)
    first = np.asarray(starts, dtype=np.int64)
    if values.ndim != 1 or (values.size and not 0.0 <= values.min() <= values.max() <= 1.0):
        raise ValueError(f"probabilities: got {_seen(values)}, wanted one dimension of values from 0 to 1")
    if first.ndim != 1 or len(first) < 2:
        raise ValueError(f"starts: got shape {first.shape}, wanted one more than the requests of a batch")
    if first[0] != 0 or first[-1] != len(values) or np.diff(first).min() < 0:
        raise ValueError(f"starts: got {_seen(first)}, wanted numbers that rise from 0 to {len(values)}")
    if priorities is None:
        return values, first, np.ones(len(first) - 1)
    weights = np.asarray(priorities, dtype=np.float64)
    if weights.shape != (len(first) - 1,):
        raise ValueError(f"priorities: got shape {weights.shape}, wanted ({len(first) - 1},), one for each request")
    if not 0.0 < weights.min() <= weights.max() < np.inf:
        raise ValueError(f"priorities: got {_seen(weights)}, wanted positive numbers")
    return values, first, weights


def _times(seconds: Callable[[Int64Array], Float64Array], rows: Int64Array) -> Float64Array:
    times = seconds(rows)
    if times.shape != rows.shape or not 0.0 < times.min() <= times.max() < np.inf:
        raise ValueError(f"seconds: got {_seen(times)} for {len(rows)} sizes, wanted a positive time for each")
    return times


def _seen(array: NDArray[np.float64] | NDArray[np.int64]) -> str:
    limits = f" with values from {array.min()} to {array.max()}" if array.size else ""
    return f"shape {array.shape}{limits}"
