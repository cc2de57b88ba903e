"""Real vocabularies and batch sizes, rows without a distribution, temperatures that mean greedy, bad input."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from bench.verify.cases import Shape, make_case
from sglang_seer.kernels.verify import verify_tree_triton
from sglang_seer.verify import DrawFlag, Logprobs
from tests.kernels.interpreted.comparison import arguments, assert_equal, schedule_of


@pytest.mark.parametrize("vocab", [50257, 151936])
def test_real_vocabularies(vocab: int) -> None:
    """Sections end inside a block and inside a group of 32; 50,257 is odd."""
    for kind, walk in (("temperature", False), ("topp95", True), ("greedy", True)):
        case = make_case(Shape(bs=1, nodes=3, vocab=vocab, kind=kind, accepted=1.0), 1)
        schedule = schedule_of(vocab, walk=walk, splits=3, block=16384, capacity=1024)
        assert_equal(case, levels=case.levels, schedule=schedule)


@pytest.mark.parametrize("bs", [1, 3, 63])
def test_batch_sizes(bs: int) -> None:
    case = make_case(Shape(bs=bs, nodes=2, vocab=130, kind="mixed" if bs < 63 else "temperature"), bs)
    assert_equal(case, schedule=schedule_of(130, block=256, splits=1))


@pytest.mark.parametrize("vocab", [1, 2, 31, 33])
def test_tiny_vocabularies(vocab: int) -> None:
    for kind in ("temperature", "filters", "greedy"):
        case = make_case(Shape(bs=3, nodes=2, vocab=vocab, kind=kind), vocab)
        assert_equal(case, schedule=schedule_of(vocab, block=32, splits=2, capacity=64))


def test_strides() -> None:
    """Logits that are every other row of something wider; parameters and trees that are columns of something."""
    case = make_case(Shape(bs=4, nodes=3, vocab=150, kind="mixed"), 3)
    wide = torch.full((24, 200), float("nan"))
    wide[::2, :150] = case.logits
    rows = case.rows
    spread = {
        name: torch.stack([getattr(rows, name)] * 3, dim=1)[:, 1]
        for name in ("temperatures", "top_ks", "top_ps", "min_ps", "seeds")
    }
    strided = dataclasses.replace(
        case,
        logits=wide[::2, :150],
        rows=dataclasses.replace(rows, **spread),
        draft_tokens=case.draft_tokens.t().contiguous().t(),
        parents=case.parents.t().contiguous().t(),
        positions=torch.stack([case.positions] * 2, dim=1)[:, 0],
    )
    assert_equal(strided, schedule=schedule_of(150, walk=True, block=64, capacity=64))


@pytest.mark.parametrize("kind", ["temperature", "filters", "greedy"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_rows_without_a_distribution(kind: str, value: float) -> None:
    """NaN, plus infinity, nothing allowed: token 0 or the first such logit, as SGLang's softmax and argmax give."""
    case = make_case(Shape(bs=3, nodes=2, vocab=100, kind=kind, accepted=1.0), 2)
    logits = case.logits.clone()
    if value == float("-inf"):
        logits[::2] = value
    else:
        logits[::2, 77] = value
        logits[::4, 60] = value
    schedule = schedule_of(100, block=32, splits=4)
    broken_case = dataclasses.replace(case, logits=logits)
    _, seen = assert_equal(broken_case, Logprobs(), schedule=schedule)
    assert seen.flags is not None
    broken = (seen.flags[:, 0] & int(DrawFlag.BROKEN)) != 0
    assert broken.all()
    # Without a wait for the host too. How a sort orders NaN differs, so with a filter it is token 0, as on a GPU.
    quick = verify_tree_triton(**arguments(broken_case), exact=False, schedule=schedule)
    assert torch.equal(quick.tokens, seen.tokens) or (kind == "filters" and (quick.tokens[::2, 0] == 0).all())


def test_nothing_allowed_by_a_grammar() -> None:
    case = make_case(Shape(bs=2, nodes=2, vocab=70, kind="temperature"), 2, grammar=True)
    assert case.grammar_mask is not None
    case.grammar_mask[0] = 0
    case.grammar_mask[2] = 0
    case.grammar_mask[2, 1] = 1 << 7
    _, seen = assert_equal(case, Logprobs(tempered=True), schedule=schedule_of(70, block=32))
    assert seen.flags is not None and seen.logprobs is not None
    assert seen.flags[0, 0] & int(DrawFlag.BROKEN) and math.isnan(float(seen.logprobs[0, 0]))
    # One token is allowed: it is drawn, whatever its noise, with probability 1.
    assert seen.tokens[1, 0] == 39 and float(seen.logprobs[1, 0]) == 0.0


def test_temperatures_that_mean_greedy() -> None:
    """Zero with sampling flags set is greedy, as in SGLang; so is what is below 1e-6."""
    case = make_case(Shape(bs=3, nodes=2, vocab=90, kind="filters"), 4)
    temperatures = torch.tensor([0.0, 5e-7, 1.0])
    rows = dataclasses.replace(case.rows, temperatures=temperatures)
    wanted, _ = assert_equal(dataclasses.replace(case, rows=rows), schedule=schedule_of(90, block=64, capacity=64))
    assert wanted.tokens[0, 0] == case.logits[0].argmax() and wanted.tokens[1, 0] == case.logits[2].argmax()


def test_small_temperatures_and_large_logits() -> None:
    """Where float32 cannot race: the section is raced again in float64."""
    case = make_case(Shape(bs=6, nodes=1, vocab=500, kind="t1"), 4)
    temperatures = torch.tensor([1e-6, 1e-3, 0.01, 1.0, 1.0, 100.0])
    logits = case.logits.clone()
    logits[3] += 3e4
    logits[4] *= 1e5
    rows = dataclasses.replace(case.rows, temperatures=temperatures)
    changed = dataclasses.replace(case, logits=logits, rows=rows)
    assert_equal(changed, Logprobs(), schedule=schedule_of(500, block=128))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(5, 40)}, "got 5 rows, wanted 2 requests \\* 3 nodes = 6"),
        ({"logits": torch.zeros(40, 6).t()}, "logits: got column stride 6, wanted 1"),
        ({"logits": torch.zeros(6, 40, dtype=torch.float64)}, "logits: got torch.float64, wanted torch.float32"),
        ({"draft_tokens": torch.zeros(2, 3)}, "draft tokens: got torch.float32"),
        ({"parents": torch.zeros(3, 2, dtype=torch.int32)}, "parents: got shape \\(3, 2\\), wanted \\(2, 3\\)"),
        ({"positions": torch.zeros(2, 3, dtype=torch.int64)}, "positions: got shape \\(2, 3\\), wanted \\(6,\\)"),
        ({"bias": torch.zeros(4, 40)}, "bias: got shape \\(4, 40\\)"),
        (
            {"grammar_mask": torch.zeros(6, 1, dtype=torch.int32)},
            "grammar mask: got shape \\(6, 1\\), wanted \\(6, 2\\)",
        ),
        ({"want": Logprobs(top=41)}, "got 41, wanted 0 to 40"),
    ],
)
def test_bad_input(change: dict[str, object], message: str) -> None:
    case = make_case(Shape(bs=2, nodes=3, vocab=40, kind="t1"), 1)
    with pytest.raises(ValueError, match=message):
        verify_tree_triton(**{**arguments(case), **change})  # type: ignore[arg-type]
