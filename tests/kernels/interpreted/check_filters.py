"""Top-k, top-p and min-p from a bounded candidate set: equal to sorting the vocabulary, and honest when it is not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench.verify.cases import Shape, make_case
from sglang_seer.kernels.verify import verify_tree_triton
from sglang_seer.verify import DrawFlag, SamplingRows, draw, gumbel_noise
from sglang_seer.verify.law import filtered_weights
from tests.kernels.interpreted.comparison import arguments, assert_equal, poisoned, schedule_of

NO_TOP_K = 1 << 30
FILTERS = [
    (2, 1.0, 0.0),
    (40, 1.0, 0.0),
    (NO_TOP_K, 0.01, 0.0),
    (NO_TOP_K, 0.5, 0.0),
    (NO_TOP_K, 0.95, 0.0),
    (NO_TOP_K, 1.0, 0.02),
    (NO_TOP_K, 1.0, 1.0),
    (30, 0.8, 0.1),
    (900, 1.0, 0.0),
]


def with_filters(count: int, filters: list[tuple[int, float, float]], seed: int) -> SamplingRows:
    generator = torch.Generator().manual_seed(seed)
    picked = [filters[i % len(filters)] for i in range(count)]
    return SamplingRows(
        temperatures=torch.rand(count, generator=generator) * 0.8 + 0.6,
        top_ks=torch.tensor([top_k for top_k, _, _ in picked], dtype=torch.int32),
        top_ps=torch.tensor([top_p for _, top_p, _ in picked]),
        min_ps=torch.tensor([min_p for _, _, min_p in picked]),
        seeds=torch.randint(-(2**62), 2**62, (count,), generator=generator),
        all_greedy=False,
        any_filter=True,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equal_to_sorting_the_vocabulary(dtype: torch.dtype) -> None:
    count = len(FILTERS)
    rows = with_filters(count, FILTERS, 1)
    shape = Shape(bs=count, nodes=1, vocab=4100, kind="filters", dtype=dtype, spread=4.0)
    case = dataclasses.replace(make_case(shape, 1), rows=rows)
    _, seen = assert_equal(case, schedule=schedule_of(4100, capacity=256, block=8192))
    assert seen.flags is not None
    # The last filter keeps more ranks than the set has room for. The others fit.
    settled = (seen.flags[:, 0] & int(DrawFlag.SETTLED)) != 0
    assert settled[-1]
    assert dtype == torch.bfloat16 or int(settled.sum()) <= 2


def test_equals_are_ranked_by_token() -> None:
    """What the kernel does on its own where probabilities are equal, as SGLang's sort does on a GPU.

    On a CPU that sort is not stable, so there such rows are drawn again by the same sort.
    """
    generator = torch.Generator().manual_seed(9)
    logits = (torch.randn(16, 60, generator=generator) * 2).round()
    rows = with_filters(16, [(7, 1.0, 0.0), (NO_TOP_K, 0.9, 0.0)], 3)
    case = make_case(Shape(bs=16, nodes=1, vocab=60, kind="filters"), 1)
    given = arguments(dataclasses.replace(case, logits=logits, rows=rows))
    seen = verify_tree_triton(**given, exact=False, schedule=schedule_of(60, block=64))
    probs = torch.softmax(logits / rows.temperatures[:, None], dim=-1)
    weights, tokens = filtered_weights(probs, rows, stable=True)
    ranks = (weights.double().log() + gumbel_noise(rows.seeds, case.positions, 60)).argmax(dim=1, keepdim=True)
    assert torch.equal(seen.tokens.long(), tokens.gather(1, ranks))
    assert (seen.flags == int(DrawFlag.NEAR_TIE)).any()


@pytest.mark.parametrize("walk", [False, True], ids=["split", "walk"])
def test_a_set_that_is_too_small_falls_back(walk: bool) -> None:
    """Flat rows: the nucleus is most of the vocabulary. Few candidates may be kept; the outcome is the same."""
    rows = with_filters(4, [(NO_TOP_K, 0.95, 0.0), (500, 1.0, 0.0)], 2)
    case = make_case(Shape(bs=4, nodes=3, vocab=600, kind="filters", spread=0.1, accepted=1.0), 3)
    flat = dataclasses.replace(case, rows=rows)
    _, seen = assert_equal(flat, schedule=schedule_of(600, walk=walk, capacity=64), exact=True)
    assert seen.flags is not None
    assert (seen.flags[:, 0] == int(DrawFlag.SETTLED)).all()
    # A set that does not suffice falls back even where near ties are left alone.
    _, quick = assert_equal(flat, schedule=schedule_of(600, walk=walk, capacity=64), exact=False)
    assert quick.flags is not None
    assert (quick.flags[:, 0] == int(DrawFlag.SETTLED)).all()


def test_equal_logits_beyond_the_set() -> None:
    """All logits equal: no threshold parts them, so the reference draws."""
    rows = with_filters(2, [(3, 1.0, 0.0), (NO_TOP_K, 0.5, 0.0)], 3)
    case = make_case(Shape(bs=2, nodes=1, vocab=3000, kind="filters"), 1)
    equal = dataclasses.replace(case, rows=rows, logits=torch.zeros(2, 3000))
    _, seen = assert_equal(equal, schedule=schedule_of(3000, capacity=64))
    assert seen.flags is not None and (seen.flags == int(DrawFlag.SETTLED)).all()


def test_a_nucleus_that_ends_at_a_candidate_is_drawn_again() -> None:
    """The mass before the drawn rank is top-p to float32 rounding: SGLang's own sum decides."""
    count, vocab = 20, 32
    logits = torch.full((count, vocab), -20.0)
    logits[:, 5], logits[:, 9] = 1.0, 1.0 - 1e-3
    share = torch.softmax(logits[0].double(), 0)[5]
    generator = torch.Generator().manual_seed(4)
    rows = SamplingRows(
        temperatures=torch.ones(count),
        top_ks=torch.full((count,), NO_TOP_K, dtype=torch.int32),
        top_ps=(share + (torch.arange(count) % 5 - 2) * 2e-8).float(),
        min_ps=torch.zeros(count),
        seeds=torch.randint(0, 2**62, (count,), generator=generator),
        all_greedy=False,
        any_filter=True,
    )
    case = make_case(Shape(bs=count, nodes=1, vocab=vocab, kind="filters"), 1)
    _, seen = assert_equal(
        dataclasses.replace(case, logits=logits, rows=rows), schedule=schedule_of(vocab, block=32, capacity=64)
    )
    assert {5, 9} <= set(seen.tokens[:, 0].tolist())
    assert seen.flags is not None and int((seen.flags == int(DrawFlag.SETTLED)).sum()) > 3


def test_most_rows_need_no_reference() -> None:
    """Power of the candidate set on rows like a model's: a few likely tokens over a floor of unlikely ones."""
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(10, 4000, generator=generator) * 1.5
    logits.scatter_add_(1, torch.randint(0, 4000, (10, 60), generator=generator), torch.full((10, 60), 10.0))
    rows = with_filters(10, [(NO_TOP_K, 0.95, 0.0), (50, 0.9, 0.0)], 7)
    case = make_case(Shape(bs=10, nodes=1, vocab=4000, kind="filters"), 1)
    given = arguments(dataclasses.replace(case, logits=logits, rows=rows))
    with poisoned():
        seen = verify_tree_triton(**given, exact=False, schedule=schedule_of(4000, capacity=256, block=8192))
    assert seen.flags is not None
    assert int((seen.flags & int(DrawFlag.SETTLED)).sum()) == 0
    equal = draw(logits, rows, case.positions) == seen.tokens[:, 0]
    assert bool((equal | (seen.flags[:, 0] != 0)).all())
