"""From step to step: draft or rest, and how wide to verify, under step times that are learnt on the way.

Every step takes the allocation with the most worth per second, except for two kinds of deterministic exploration:

    new      a width that ran fewer than 3 times at this batch size (an octave is one size): one step in 4 at most
    stale    a width that might be the best if its time had fallen by a fifth: one step in 256, longest unused first

A width is tried only where it could win: a new one is hoped to cost no more than the next narrower known one. So an
octave of batch sizes costs at most 3 steps for each width, and steady running one step in 256.

Where plain decoding wins 8 times in a row drafting itself is saved: it rests for 8 steps, then 16, up to 64, and is
judged again after each rest and whenever the batch size changes its octave.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sglang_seer.draft.budget import Allocation, Candidates, allocate, check_widths
from sglang_seer.draft.step_time import StepTimes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

SAMPLES = 3
NEW_EVERY = 4
STALE_EVERY = 256
HOPE = 0.8
PATIENCE = 8
SHORTEST_REST, LONGEST_REST = 8, 64


class Controller:
    """The decisions of one engine; the same calls give the same decisions. In each decode step:

    nodes = controller.nodes(batch)                        # 0: plain decoding, draft nothing
    proposal = index.propose(..., budgets of at most nodes)
    allocation = controller.decide(proposal.probabilities, proposal.starts, context=...)
    """

    def __init__(
        self,
        times: StepTimes,
        *,
        widths: Sequence[int] = (0, 4, 8, 16),
        ragged: bool = False,
        min_probability: float = 0.0,
        margin: float = 0.01,
    ) -> None:
        """Start without experience.

        Args:
            times: step times; whoever owns them feeds them.
            widths: nodes beyond the root that a step may have for every request, rising from 0.
            ragged: a step pays for the nodes it keeps, not for its width; then the widths are only what is explored,
                in nodes per request on average, and the last one is the most nodes of a request.
            min_probability: nodes below it are not kept, however cheap they are; 0 to 1.
            margin: share by which another width must be better than the last one; 0 follows every change.

        Raises:
            ValueError: a value is out of its range.
        """
        self._times = times
        self._widths = check_widths(widths)
        if len(self._widths) < 2:
            raise ValueError(f"widths: got {widths}, wanted 0 and at least one more")
        self._options = tuple(widths)
        if not 0.0 <= min_probability <= 1.0:
            raise ValueError(f"min_probability: got {min_probability}, wanted 0 to 1")
        if not 0.0 <= margin < 1.0:
            raise ValueError(f"margin: got {margin}, wanted 0 or more, below 1")
        self._ragged = ragged
        self._min_probability = min_probability
        self._margin = margin
        self._step = 0
        self._size = 0
        self._runs: dict[tuple[int, int], int] = {}  # (size, width): how often it ran
        self._last_run: dict[tuple[int, int], int] = {}  # and in which step for the last time
        self._last_new = self._last_stale = 0
        self._previous: int | None = None
        self._plain_wins = 0
        self._rest_left = 0
        self._rest = SHORTEST_REST
        self.explored = 0
        """Steps spent on exploration."""

    def nodes(self, batch: int) -> int:
        """Begin a decode step of `batch` requests: the most nodes to draft for each, 0 while drafting rests."""
        if batch < 1:
            raise ValueError(f"batch: got {batch}, wanted 1 or more")
        self._step += 1
        size = batch.bit_length()
        if size != self._size:
            self._size, self._plain_wins, self._rest_left, self._rest = size, 0, 0, SHORTEST_REST
        if self._rest_left:
            self._rest_left -= 1
            self._ran(0)
            return 0
        return int(self._widths[-1])

    def decide(
        self, probabilities: ArrayLike, starts: ArrayLike, *, context: int, priorities: ArrayLike | None = None
    ) -> Allocation:
        """What to verify of the step's proposal; the arguments are those of `Candidates`.

        context: tokens in the KV cache of the batch. Raises ValueError naming the field.
        """
        candidates = Candidates(probabilities, starts, priorities=priorities, min_probability=self._min_probability)
        batch = candidates.num_requests
        draft_seconds = self._times.draft_seconds(batch, int(self._widths[-1]))
        allocation = allocate(
            candidates,
            partial(self._times.seconds, batch, context=context),
            self._options,
            ragged=self._ragged,
            draft_seconds=draft_seconds,
            previous_width=self._previous,
            margin=self._margin,
        )
        chosen = self._nearest(allocation)
        tried = self._to_explore(candidates, chosen, context, draft_seconds)
        if tried is None:
            self._previous = allocation.width
            self._judge(plain=chosen == 0)
        else:
            self.explored += 1
            chosen, width = tried, int(self._widths[tried])
            allocation = (
                candidates.spend(width * batch, int(self._widths[-1])) if self._ragged else candidates.widest(width)
            )
        self._ran(chosen)
        return allocation

    def _nearest(self, allocation: Allocation) -> int:
        """Place in `widths` of what is kept."""
        width = allocation.counts.mean() if self._ragged else allocation.width
        return int(np.argmin(np.abs(self._widths - width)))

    def _to_explore(self, candidates: Candidates, chosen: int, context: int, draft_seconds: float) -> int | None:
        """Place of the width to try in this step instead of the chosen one, if any."""
        new_due = self._step - self._last_new >= NEW_EVERY
        stale_due = self._step - self._last_stale >= STALE_EVERY
        if not (new_due or stale_due):
            return None
        batch = candidates.num_requests
        seconds = self._times.seconds(batch, batch * (1 + self._widths), context=context)
        if self._ragged:
            by_total = candidates.worth_by_total(int(self._widths[-1]))
            worths = by_total[np.minimum(self._widths * batch, len(by_total) - 1)]
        else:
            worths = candidates.worth(self._widths)
        known = np.array([self._runs.get((self._size, place), 0) >= SAMPLES for place in range(len(self._widths))])
        # A wider step takes no less time than a narrower one, so a known time bounds the unknown ones behind it.
        hoped = np.where(known, HOPE * seconds, np.maximum.accumulate(np.where(known, seconds, 0.0)))
        hoped[hoped == 0.0] = HOPE * seconds[0]
        to_beat = (worths / (seconds + draft_seconds))[chosen] * (1.0 + self._margin)
        hopeful = worths / (hoped + draft_seconds) > to_beat
        hopeful[chosen] = False
        if new_due and (hopeful & ~known).any():
            self._last_new = self._step
            return int(np.argmax(hopeful & ~known))
        if stale_due and hopeful.any():
            self._last_stale = self._step
            places: list[int] = np.flatnonzero(hopeful).tolist()
            return min(places, key=lambda place: self._last_run.get((self._size, place), 0))
        return None

    def _judge(self, *, plain: bool) -> None:
        """Count how often plain decoding won in a row, and rest after enough of it."""
        if not plain:
            self._plain_wins, self._rest = 0, SHORTEST_REST
            return
        self._plain_wins += 1
        if self._plain_wins >= PATIENCE:
            self._rest_left = self._rest
            self._rest = min(2 * self._rest, LONGEST_REST)

    def _ran(self, place: int) -> None:
        key = (self._size, place)
        self._runs[key] = self._runs.get(key, 0) + 1
        self._last_run[key] = self._step
