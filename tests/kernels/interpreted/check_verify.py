"""The verifier against the reference: kinds of sampling, types, strides, biases, grammars, schedules."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench.verify.cases import KINDS, Shape, make_case
from sglang_seer.kernels.schedule import Schedule, choose_schedule, make_schedule, split_sections
from sglang_seer.verify import DrawFlag, Logprobs
from tests.kernels.interpreted.comparison import assert_equal, schedule_of


@pytest.mark.parametrize("walk", [False, True], ids=["split", "walk"])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str, walk: bool) -> None:
    accepted = 0
    for seed, (bs, nodes, vocab) in enumerate([(2, 6, 1300), (1, 8, 1025)]):
        case = make_case(Shape(bs=bs, nodes=nodes, vocab=vocab, kind=kind, accepted=0.95), seed, pad_columns=3)
        wanted, _ = assert_equal(case, levels=case.levels, schedule=schedule_of(vocab, walk=walk, block=512))
        accepted += int((wanted.lengths - 1).sum())
    # Else the walks would not be seen.
    assert accepted >= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["greedy", "temperature", "filters"])
def test_types_with_bias_and_grammar(dtype: torch.dtype, kind: str) -> None:
    """bfloat16 logits are full of equal values, so order among equals is compared too."""
    shape = Shape(bs=2, nodes=3, vocab=700, kind=kind, dtype=dtype)
    for seed, (bias, grammar) in enumerate([("request", False), ("node", True)]):
        case = make_case(shape, seed, bias=bias, grammar=grammar, pad_columns=seed)
        assert_equal(case, schedule=schedule_of(700, walk=bool(seed % 2), splits=3, block=256))


@pytest.mark.parametrize("width", [1, 2, 8, 32])
def test_widths(width: int) -> None:
    case = make_case(Shape(bs=2, nodes=width, vocab=300, kind="temperature", accepted=0.9), width)
    for walk in (False, True):
        assert_equal(case, levels=case.levels, schedule=schedule_of(300, walk=walk, block=512))


def test_hostile_drafts() -> None:
    """Tokens outside of the vocabulary, repeated siblings, parents in a circle: no draft is a draw, nothing hangs."""
    case = make_case(Shape(bs=3, nodes=6, vocab=200, kind="temperature", accepted=1.0), 5)
    tokens = case.draft_tokens.clone()
    tokens[0, 1:] = torch.tensor([-1, 200, 2**31 - 1, -(2**31), 199], dtype=torch.int32)
    tokens[1, 1:] = tokens[1, 1]
    parents = case.parents.clone()
    parents[2] = torch.tensor([0, 0, 1, 2, 3, 3], dtype=torch.int32)
    hostile = dataclasses.replace(case, draft_tokens=tokens, parents=parents)
    for walk in (False, True):
        wanted, _ = assert_equal(hostile, schedule=schedule_of(200, walk=walk, block=256))
        assert wanted.lengths[0] == 1 or wanted.tokens[0, 0] == 199


def test_rows_do_not_depend_on_mates() -> None:
    case = make_case(Shape(bs=3, nodes=3, vocab=400, kind="mixed"), 7)
    together, _ = assert_equal(case, schedule=schedule_of(400))
    for request in range(3):
        some = slice(request * 3, request * 3 + 3)
        alone = dataclasses.replace(
            case,
            logits=case.logits[some],
            draft_tokens=case.draft_tokens[request : request + 1],
            parents=case.parents[request : request + 1],
            positions=case.positions[some],
            rows=case.rows.take(torch.tensor([request])),
        )
        one, _ = assert_equal(alone, schedule=schedule_of(400, walk=True))
        assert torch.equal(one.tokens[0], together.tokens[request])


@pytest.mark.parametrize("walk", [False, True], ids=["split", "walk"])
def test_near_ties_are_drawn_again(walk: bool) -> None:
    """Two columns whose scores differ by less than float32 rounding: only the reference's arithmetic decides."""
    case = make_case(Shape(bs=8, nodes=1, vocab=64, kind="t1", accepted=0.0), 3)
    from sglang_seer.verify import gumbel_noise

    noise = gumbel_noise(case.rows.seeds, case.positions, 64)
    logits = torch.full((8, 64), -30.0)
    for row in range(8):
        first, second = row, 40 + row
        logits[row, first] = 1.0
        # The float32 nearest to a tie, and its neighbours.
        tie = (1.0 + noise[row, first] - noise[row, second]).float()
        logits[row, second] = tie * (1 + (row % 3 - 1) * 2.0**-23)
    flagged = dataclasses.replace(case, logits=logits)
    schedule = schedule_of(64, walk=walk, block=32)
    _, seen = assert_equal(flagged, schedule=schedule)
    assert seen.flags is not None
    assert (seen.flags[:, 0] == int(DrawFlag.SETTLED)).all()
    # Without `exact` the near tie is said, not settled.
    from sglang_seer.kernels.verify import verify_tree_triton
    from tests.kernels.interpreted.comparison import arguments

    quick = verify_tree_triton(**arguments(flagged), exact=False, schedule=schedule)
    assert quick.flags is not None
    assert (quick.flags[:, 0] == int(DrawFlag.NEAR_TIE)).all()


def test_top_logprobs() -> None:
    for seed, (kind, want) in enumerate(
        [
            ("temperature", Logprobs(tempered=True, top=5)),
            ("greedy", Logprobs(original=True, top=3)),
            ("filters", Logprobs(tempered=True, original=True, top=9)),
        ]
    ):
        shape = Shape(bs=2, nodes=3, vocab=500, kind=kind, dtype=torch.bfloat16)
        case = make_case(shape, seed, bias="request" if seed else None, grammar=seed == 2)
        wanted, seen = assert_equal(case, want, schedule=schedule_of(500, walk=bool(seed % 2), block=256))
        assert wanted.top_tokens is not None and seen.top_tokens is not None
        torch.testing.assert_close(seen.top_logprobs, wanted.top_logprobs, rtol=2e-6, atol=2e-5)
        assert torch.equal(seen.top_tokens, wanted.top_tokens)


def test_schedules_cover_the_vocabulary() -> None:
    for vocab in (1, 33, 50257, 151936):
        for wanted in (1, 2, 7, 64):
            splits, section = split_sections(vocab, wanted, 2048)
            assert splits <= wanted and section % 2048 == 0
            assert (splits - 1) * section < vocab <= splits * section
    few = choose_schedule(1, 8, 4, 151936, 4, 132)
    many = choose_schedule(256, 32, 8, 151936, 4, 132)
    assert not few.walk and many.walk
    assert isinstance(make_schedule(1, 151936, 132, walk=False), Schedule)
    # Enough programs to fill the machine, and sections that are worth a program.
    assert few.splits * 8 >= 132 and few.section >= 2 * few.block
