"""The pacer measures steps between drafts and verifies what pays; the clock is ours, everything else is real."""

from __future__ import annotations

import numpy as np
import pytest

from sglang_seer.draft import Proposal
from sglang_seer.draft.step_time import StepTimes
from sglang_seer.draft.trees import accepted_nodes, pad_trees
from sglang_seer.engine.pacing import Pacer, draft_widths

BATCH = 4


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def chains(probabilities: list[list[float]]) -> Proposal:
    """One chain a request; each value is the probability of the whole path."""
    counts = [len(chain) for chain in probabilities]
    flat = np.array([p for chain in probabilities for p in chain], dtype=np.float32)
    places = np.concatenate([np.arange(n) for n in counts]).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Proposal(places + 10, places - 1, flat, places + 1, np.zeros(len(flat), dtype=np.int64), starts)


def run(pacer: Pacer, clock: Clock, proposal: Proposal, seconds_a_row: float, steps: int) -> list[int]:
    """The widths of steps whose time is 1 ms and so much a row."""
    widths = []
    for _ in range(steps):
        nodes = pacer.begin(BATCH)
        clock.now += 1e-5
        offered = proposal if nodes else proposal.select(np.zeros(len(proposal.tokens), dtype=np.bool_))
        kept, width = pacer.choose(offered, 100, np.ones(BATCH))
        assert width == np.diff(kept.starts).max(initial=0)
        widths.append(width)
        clock.now += 1e-3 + seconds_a_row * BATCH * (1 + width)
    return widths


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_where_rows_are_free_all_probable_nodes_are_verified(clock: Clock) -> None:
    pacer = Pacer(StepTimes(), (0, 2, 4), padded=False, clock=clock)
    widths = run(pacer, clock, chains([[0.9, 0.8, 0.7, 0.6]] * BATCH), 0.0, 200)
    assert np.mean(np.array(widths[100:]) == 4) > 0.9


def test_where_rows_cost_more_than_drafts_bring_nothing_is_verified(clock: Clock) -> None:
    pacer = Pacer(StepTimes(), (0, 2, 4), padded=False, clock=clock)
    widths = run(pacer, clock, chains([[0.1, 0.05, 0.02, 0.01]] * BATCH), 1e-2, 200)
    assert np.mean(np.array(widths[100:]) == 0) > 0.9


def test_improbable_nodes_are_not_verified_even_where_rows_are_free(clock: Clock) -> None:
    pacer = Pacer(StepTimes(), (0, 2, 4), padded=False, clock=clock)
    assert max(run(pacer, clock, chains([[0.5, 0.3, 0.009, 0.008]] * BATCH), 0.0, 100)) == 2


def test_a_padded_step_has_one_of_the_widths(clock: Clock) -> None:
    pacer = Pacer(StepTimes(), (0, 2, 4), padded=True, clock=clock)
    proposal = chains([[0.9, 0.8, 0.7]] * BATCH)
    kept = []
    for _ in range(100):
        pacer.begin(BATCH)
        clock.now += 1e-5
        selected, width = pacer.choose(proposal, 100, np.ones(BATCH))
        kept.append((int(np.diff(selected.starts).max()), width))
        clock.now += 1e-3
    assert set(kept) <= {(0, 0), (1, 2), (2, 2), (3, 4)}
    assert kept.count((3, 4)) > 80


def test_a_padded_step_has_a_width_that_graphs_are_there_for(clock: Clock) -> None:
    """Also where nothing is drafted."""
    pacer = Pacer(StepTimes(), (0, 2, 4), padded=True, captured=(4,), clock=clock)
    drafted = set()
    for _ in range(50):
        nodes = pacer.begin(BATCH)
        clock.now += 1e-5
        proposal = chains([[0.9, 0.8, 0.7] if nodes else []] * BATCH)
        kept, width = pacer.choose(proposal, 100, np.ones(BATCH))
        drafted.add(len(kept.tokens) > 0)
        assert width == 4
        clock.now += 1.0 + 1e-3 * BATCH * (1 + width)
    assert True in drafted


def test_a_step_lasts_from_its_drafts_to_the_next_and_prefills_do_not_count(clock: Clock) -> None:
    times = StepTimes()
    pacer = Pacer(times, (0, 4), padded=True, clock=clock)
    proposal = chains([[0.5, 0.3, 0.2, 0.1]] * BATCH)
    for step in range(40):
        pacer.begin(BATCH)
        clock.now += 5.0  # slow drafting is not part of a step
        _, width = pacer.choose(proposal, 100, np.ones(BATCH))
        clock.now += 0.05 * (1 + width)
        if step % 2:
            pacer.interrupt()
            clock.now += 100.0
    assert 0 < times.num_observations <= 20
    (seconds,) = times.seconds(BATCH, np.array([BATCH * 5]), context=100)
    assert seconds == pytest.approx(0.25, rel=0.1)


def test_widths_are_fractions_of_the_most() -> None:
    assert draft_widths(16) == (0, 4, 8, 16)
    assert draft_widths(8) == (0, 2, 4, 8)
    assert draft_widths(1) == (0, 1)


def test_accepted_nodes_are_found_in_the_proposal() -> None:
    """Rows of the padded trees against nodes of the proposal, with trees of unequal size."""
    proposal = chains([[0.5, 0.4], [], [0.9, 0.8, 0.7]])
    trees = pad_trees(np.array([1, 2, 3], dtype=np.int32), proposal, 4)
    assert trees.levels == 4
    paths = np.array([[0, 1, -1, -1], [4, -1, -1, -1], [8, 9, 10, 11]])
    flags = accepted_nodes(trees, proposal, paths)
    assert flags.tolist() == [True, False, True, True, True]
