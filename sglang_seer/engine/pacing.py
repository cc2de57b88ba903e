"""How much of each draft is verified: measures the engine's steps and asks the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sglang_seer.draft import Proposal
from sglang_seer.draft.controller import Controller
from sglang_seer.draft.step_time import DraftObservation, StepObservation, StepTimes
from sglang_seer.status import STATUS

# Refitting the step times costs as much as several decisions.
MOST_UNLEARNT = 32
# Nodes less probable than this are not worth a row of logits even where rows are free.
MIN_PROBABILITY = 0.01


def draft_widths(draft_nodes: int) -> tuple[int, ...]:
    """Nodes beyond the root that a step may have: 0, and fractions of the most."""
    return tuple(sorted({0, -(-draft_nodes // 4), -(-draft_nodes // 2), draft_nodes}))


def pads_widths(device_type: str) -> bool:
    """Whether every step has one of a few widths.

    Graphs are captured for them, and some attention backends take the width from the server's arguments. The attention
    of the CPU platform takes any width.
    """
    return device_type != "cpu"


class Pacer:
    """The budget of one engine; only the rank that drafts has one.

    A step lasts from the end of its drafting until the engine knows its tokens and asks for the next drafts: that is
    what requests wait for, and overlap scheduling is in it.
    """

    def __init__(
        self,
        times: StepTimes,
        widths: Sequence[int],
        *,
        padded: bool,
        captured: Sequence[int] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Start without experience but what `times` knows.

        widths: nodes beyond the root that a step may have, rising from 0. padded: a step has one of these widths, as
        graphs were captured for them; else it is as wide as its widest tree. captured: those of the widths, rising to
        the last, that graphs are there for; None for all.
        """
        self.times = times
        self._widths = tuple(widths)
        self._padded = padded
        self._captured = self._widths if captured is None else tuple(captured)
        self._controller = Controller(times, widths=widths, min_probability=MIN_PROBABILITY)
        self._clock = clock
        self._running: tuple[int, int, int, float] | None = None  # batch, rows, context, when its drafting ended
        self._asked = 0.0
        self._nodes = 0
        self._steps: list[StepObservation] = []
        self._drafts: list[DraftObservation] = []
        self._draft_s = self._verify_s = 0.0
        self._timed_steps = 0

    def interrupt(self) -> None:
        """Something else than a decode step ran: the time until the next one says nothing."""
        self._running = None

    def begin(self, batch: int) -> int:
        """The last step's tokens are known and `batch` requests come next: the most nodes to draft for each."""
        self._asked = self._clock()
        if self._running is not None:
            size, rows, context, since = self._running
            self._running = None
            seconds = max(self._asked - since, 1e-9)
            self._steps.append(StepObservation(batch=size, rows=rows, context=context, seconds=seconds))
            self._verify_s += seconds
            self._timed_steps += 1
        if len(self._steps) >= min(MOST_UNLEARNT, 2 + self.times.num_observations // 4):
            self.times.observe(self._steps, self._drafts)
            self._steps, self._drafts = [], []
        self._nodes = self._controller.nodes(batch)
        return self._nodes

    def choose(self, proposal: Proposal, context: int, priorities: npt.NDArray[np.float64]) -> tuple[Proposal, int]:
        """What of a proposal is verified, and the nodes beyond the root that the step has for every request.

        proposal: of at most as many nodes as `begin` said. context: tokens in the KV cache of the batch.
        priorities: [batch] worth of a token of each request.
        """
        batch = len(proposal.starts) - 1
        drafted = self._clock()
        if self._nodes > 0:
            seconds = max(drafted - self._asked, 1e-9)
            self._drafts.append(DraftObservation(batch=batch, nodes=self._nodes, seconds=seconds))
            self._draft_s += seconds
        width = 0
        if self._nodes > 0:
            allocation = self._controller.decide(
                proposal.probabilities, proposal.starts, context=context, priorities=priorities
            )
            proposal = proposal.select(allocation.keep)
            width = int(allocation.counts.max())
        if self._padded:
            width = next(captured for captured in self._captured if captured >= width)
        STATUS.counters[f"steps_of_width_{width}"] += 1
        self._running = (batch, batch * (1 + width), context, self._clock())
        return proposal, width

    def status(self) -> dict[str, Any]:
        """What was learnt, for /server_info, and where time went: in drafts, and from there to the next ones."""
        return {
            "steps_measured": self.times.num_observations,
            "steps_explored": self._controller.explored,
            "draft_s": self._draft_s,
            "verify_s": self._verify_s,
            "timed_steps": self._timed_steps,
        }
