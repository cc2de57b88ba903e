"""The replay against drafters whose gains can be worked out by hand, and against a search over all paths."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bench.draft import synthetic
from bench.draft.drafter import SHAPES, Drafts, Request, Shape
from bench.draft.replay import accepted_path, check, replay
from bench.draft.systems import make, seer
from bench.draft.tokens import Response, TokenGroup

CHAIN = Shape("chain4", 4, chain=True)


class Scripted:
    """Drafts what `plan` says of each request; keeps what it was told."""

    batched, drops = True, "groups"

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.known: dict[int, list[int]] = {}
        self.seen: list[list[list[int]]] = []
        self.finished: list[int] = []

    def open(self, requests: Sequence[Request]) -> None:
        self.known |= {request.id: request.tokens[: request.prompt_tokens].tolist() for request in requests}

    def append_args(self, requests: Sequence[Request], counts: Sequence[int]) -> Any:
        return [(r.id, r.tokens[r.known - count : r.known].tolist()) for r, count in zip(requests, counts, strict=True)]

    def append(self, args: Any) -> None:
        for request, new in args:
            self.known[request] += new

    def propose_args(self, requests: Sequence[Request]) -> Any:
        for request in requests:
            # At every step the drafter has been told exactly what is known.
            assert self.known[request.id] == request.tokens[: request.known].tolist()
        return requests

    def propose(self, args: Any) -> Any:
        return [self.plan(request) for request in args]

    def drafts(self, proposed: Any) -> Drafts:
        starts = [0, *np.cumsum([len(tokens) for tokens, _, _ in proposed]).tolist()]
        flat = [[value for one in proposed for value in one[part]] for part in range(3)]
        return Drafts(flat[0], flat[1], starts, np.array(flat[2], dtype=np.float64))

    def observe(self, proposed: Any, accepted: Sequence[Sequence[int]]) -> None:
        self.seen.append([list(path) for path in accepted])

    def finish(self, request: Request) -> None:
        self.finished.append(request.id)


def group(*lengths: int, given: slice | None = None) -> TokenGroup:
    responses = []
    for number, length in enumerate(lengths):
        generated = np.ones(length, dtype=np.bool_)
        if given:
            generated[given] = False
        responses.append(Response(np.arange(100 * number, 100 * number + length, dtype=np.int32) + 1, generated))
    return TokenGroup(np.array([7, 7, 7], dtype=np.int32), responses)


def continuation(request: Request, count: int) -> tuple[list[int], list[int], list[float]]:
    """The real next tokens as a chain."""
    tokens = request.tokens[request.known : request.known + count].tolist()
    return tokens, list(range(-1, len(tokens) - 1)), [0.9] * len(tokens)


def test_no_drafts_yield_one_token_a_step() -> None:
    drafter = Scripted(lambda request: ([], [], []))
    total = replay(drafter, [group(5, 9), group(3)], CHAIN).total
    assert (total.steps, total.tokens, total.drafted, total.acceptance) == (17, 17, 0, 1.0)
    assert sorted(drafter.finished) == [0, 1, 2]


def test_perfect_drafts_yield_their_length_and_the_bonus_token() -> None:
    drafter = Scripted(lambda request: continuation(request, 4))
    # 5 tokens a step: 20 take 4 steps; 7 take 5, then 2 (the draft reaches the end and no bonus token is left).
    outcome = replay(drafter, [group(20), group(7)], CHAIN)
    assert [(g.steps, g.tokens, g.accepted) for g in outcome.groups] == [(4, 20, 16), (2, 7, 6)]


def test_half_right_drafts() -> None:
    def plan(request: Request) -> tuple[list[int], list[int], list[float]]:
        tokens, parents, chances = continuation(request, 4)
        return tokens[:1] + [-5] * len(tokens[1:]), parents, chances

    total = replay(Scripted(plan), [group(20)], CHAIN).total
    assert (total.steps, total.accepted, total.drafted) == (10, 10, 9 * 4 + 2)


def test_given_text_costs_no_step_and_is_told_to_the_drafter() -> None:
    drafter = Scripted(lambda request: ([], [], []))
    total = replay(drafter, [group(20, given=slice(5, 15))], CHAIN).total
    assert (total.steps, total.tokens) == (10, 10)
    # A draft cannot be accepted across text that the model did not write.
    eager = replay(Scripted(lambda request: continuation(request, 4)), [group(20, given=slice(5, 15))], CHAIN)
    assert (eager.total.steps, eager.total.tokens) == (2, 10)


def test_text_that_ends_with_given_tokens_finishes() -> None:
    drafter = Scripted(lambda request: ([], [], []))
    assert replay(drafter, [group(8, given=slice(6, 8))], CHAIN).total.steps == 6
    assert drafter.finished == [0]


def test_a_tree_of_wrong_branches_and_the_right_one() -> None:
    def plan(request: Request) -> tuple[list[int], list[int], list[float]]:
        # Root: a wrong node, then the right one; below the right one a wrong node, then the right one.
        first, second = request.tokens[request.known : request.known + 2].tolist()
        return [-5, first, -6, second], [-1, -1, 1, 1], [0.5, 0.4, 0.2, 0.1]

    drafter = Scripted(plan)
    total = replay(drafter, [group(9)], Shape("tree4", 4)).total
    assert (total.steps, total.tokens, total.accepted) == (3, 9, 6)
    assert drafter.seen == [[[1, 3]]] * 3


def test_paths_equal_a_search_over_all_paths() -> None:
    rng = random.Random(0)
    for _ in range(300):
        size = rng.randint(1, 12)
        parents = [rng.randint(-1, node - 1) for node in range(size)]
        tokens: list[int] = []
        for node in range(size):
            taken = {tokens[other] for other in range(node) if parents[other] == parents[node]}
            tokens.append(rng.choice([token for token in range(15) if token not in taken][:3]))
        truth = [rng.randint(0, 2) for _ in range(8)]
        request = Request(0, 0, np.array([9, *truth], dtype=np.int32), 1, 1)
        end = rng.randint(1, len(truth)) + 1
        best: list[int] = []
        for node in range(size):
            path = [node]
            while parents[path[0]] >= 0:
                path.insert(0, parents[path[0]])
            if [tokens[place] for place in path] == truth[: end - 1][: len(path)] and len(path) > len(best):
                best = path
        assert accepted_path(Drafts(tokens, parents, [0, size], None), 0, request, end) == best


@pytest.mark.parametrize(
    ("tokens", "parents", "shape", "message"),
    [
        ([1] * 5, [-1, 0, 1, 2, 3], CHAIN, "at most 4 nodes"),
        ([1, 2], [-1, -1], CHAIN, "two children"),
        ([1, 2], [1, -1], Shape("tree4", 4), "after its parent"),
        ([1, 2], [-1, -2], Shape("tree4", 4), "after its parent"),
    ],
)
def test_drafts_that_break_the_shape_are_refused(
    tokens: list[int], parents: list[int], shape: Shape, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(Drafts(tokens, parents, [0, len(tokens)], None), 1, shape)
    with pytest.raises(ValueError, match=message):
        replay(Scripted(lambda request: (tokens, parents, [0.5] * len(tokens))), [group(9)], shape)


def test_calibration_counts_every_node_once_and_only_below_accepted_parents() -> None:
    """Tree: right (0.6) with a right (0.3) and a wrong child (0.06), wrong (0.2) with a child (0.1)."""

    def plan(request: Request) -> tuple[list[int], list[int], list[float]]:
        first, second = request.tokens[request.known : request.known + 2].tolist()
        return [first, -5, second, -6, -7], [-1, -1, 0, 0, 1], [0.6, 0.2, 0.3, 0.06, 0.1]

    outcome = replay(Scripted(plan), [group(3)], Shape("tree5", 5))
    path = {(bin_["predicted"], bin_["observed"]) for bin_ in outcome.path.curve()}
    assert path == {(0.6, 1.0), (0.2, 0.0), (0.3, 1.0), (0.06, 0.0), (0.1, 0.0)}
    assert outcome.path.error() == pytest.approx((0.4 + 0.2 + 0.7 + 0.06 + 0.1) / 5)
    # The child of the wrong node says nothing; the others are 0.6, 0.2, 0.5 and 0.1 given their parents.
    assert outcome.conditional.error() == pytest.approx((0.4 + 0.2 + 0.5 + 0.1) / 4)


def test_nodes_behind_the_end_are_not_judged() -> None:
    outcome = replay(Scripted(lambda request: continuation(request, 4)), [group(2)], CHAIN)
    assert outcome.path.count.sum() == outcome.conditional.count.sum() == 2

    def past_the_end(request: Request) -> tuple[list[int], list[int], list[float]]:
        return [*request.tokens[request.known :].tolist(), -5, -6], [-1, 0, 1, 2], [0.9, 0.8, 0.7, 0.6]

    outcome = replay(Scripted(past_the_end), [group(2)], CHAIN)
    assert outcome.path.count.sum() == outcome.conditional.count.sum() == 2
    assert outcome.total.drafted == 4


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_our_index_gains_from_siblings(shape: Shape) -> None:
    groups = synthetic.groups(count=2, siblings=6, mean_tokens=600)
    alone = [TokenGroup(g.prompt, [response]) for g in groups for response in g.responses]

    def acceptance(parts: list[TokenGroup]) -> float:
        # Where all groups serve as source, splitting one up changes little.
        drafter = make(seer.GROUP_ONLY, shape, vocab_size=synthetic.VOCAB_SIZE, capacity_tokens=0)
        outcome = replay(drafter, parts, shape)
        assert outcome.total.tokens == sum(part.generated_tokens for part in parts)
        return outcome.total.acceptance

    assert acceptance(groups) > acceptance(alone) + 0.1
    assert acceptance(groups) == acceptance(groups)
