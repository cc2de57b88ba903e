"""Bad input is named, all of it at once; what is added to logits; log-probabilities in both conventions."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench.verify.cases import Case, Shape, make_case
from sglang_seer.verify import Logprobs, transform_logits, value_reasons, verify_tree

SHAPE = Shape(bs=2, nodes=3, vocab=70, kind="mixed")


def given(case: Case) -> dict[str, object]:
    fields = {field.name: getattr(case, field.name) for field in dataclasses.fields(case)}
    del fields["levels"]
    return fields


def test_all_reasons_are_in_one_error() -> None:
    case = make_case(SHAPE, 1)
    rows = dataclasses.replace(case.rows, seeds=case.rows.seeds.int(), top_ps=case.rows.top_ps[:1])
    wrong = {**given(case), "rows": rows, "parents": case.parents.float(), "positions": case.positions[:5]}
    with pytest.raises(ValueError) as error:
        verify_tree(**wrong)  # type: ignore[arg-type]
    for part in (
        "seeds: got torch.int32, wanted torch.int64",
        "top_ps: got shape (1,), wanted (2,)",
        "parents: got torch.float32, wanted torch.int32 or torch.int64",
        "positions: got shape (5,), wanted (6,)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("logits", [torch.zeros(6), torch.zeros(2, 3, 70)])
def test_logits_must_be_rows(logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"wanted \[bs \* width, vocab\]"):
        verify_tree(**{**given(make_case(SHAPE, 1)), "logits": logits})  # type: ignore[arg-type]


def test_values_that_sglang_would_refuse() -> None:
    case = make_case(Shape(bs=6, nodes=3, vocab=70, kind="t1", chain=True), 1)
    assert value_reasons(case.draft_tokens, case.parents, case.rows) == []
    rows = dataclasses.replace(
        case.rows,
        temperatures=torch.tensor([float("nan"), -1.0, 0.0, 1.0, 1.0, 1.0]),
        top_ks=torch.tensor([9, 9, 0, 9, 9, 9], dtype=torch.int32),
        top_ps=torch.tensor([1.0, 1.0, 1.0, 0.0, 1.5, 1.0]),
        min_ps=torch.tensor([0.0, 0.0, 0.0, 0.0, -0.1, 2.0]),
    )
    parents = case.parents.clone()
    parents[1, 1], parents[2, 2] = 1, -2
    tokens = case.draft_tokens.clone()
    parents[3] = torch.tensor([-1, 0, 0])
    tokens[3] = 5
    assert value_reasons(tokens, parents, rows) == [
        "temperatures: wanted finite numbers of at least 0; got others in requests [0, 1]",
        "top_ks: wanted at least 1 (1 is greedy, the vocabulary or more is off); got others in requests [2]",
        "top_ps: wanted above 0, at most 1; got others in requests [3, 4]",
        "min_ps: wanted 0 to 1; got others in requests [4, 5]",
        "parents: wanted a node before the child, or -1; got others in requests [1, 2]",
        "draft tokens: wanted distinct tokens among siblings; got others in requests [3]",
    ]


def test_bias_and_grammar_by_row() -> None:
    """Bit token % 32 of word token // 32; a bias row a request, or one a node; the logits stay as they are."""
    logits = torch.randn(6, 70, generator=torch.Generator().manual_seed(1)).bfloat16()
    before = logits.clone()
    mask = torch.zeros((6, 3), dtype=torch.int32)
    allowed = [0, 31, 32, 69]
    for token in allowed:
        bit = 1 << (token % 32)
        mask[:, token // 32] |= bit if bit < 2**31 else bit - 2**32
    by_request, by_node = torch.randn(2, 70), torch.randn(6, 70)
    for bias, spread in ((by_request, by_request.repeat_interleave(3, 0)), (by_node, by_node)):
        seen = transform_logits(logits, bias, mask, torch.tensor([4, 1]))
        wanted = torch.full((2, 70), float("-inf"))
        for place, row in enumerate((4, 1)):
            for token in allowed:
                wanted[place, token] = logits[row, token].float() + spread[row, token]
        assert torch.equal(seen, wanted)
    assert torch.equal(logits, before)
    assert transform_logits(logits, None, None) is logits


@pytest.mark.parametrize("kind", ["mixed", "greedy"])
def test_logprobs_of_emitted_tokens(kind: str) -> None:
    """Kills: the other convention, a filter in the log-probability, the row of another node, a slot behind the end."""
    case = make_case(dataclasses.replace(SHAPE, bs=5, kind=kind, accepted=0.9), 4)
    want = Logprobs(tempered=True, original=True, top=4)
    seen = verify_tree(**given(case), want=want)  # type: ignore[arg-type]
    assert seen.logprobs is not None and seen.original_logprobs is not None
    assert seen.top_logprobs is not None and seen.top_tokens is not None
    emitted = 0
    for request in range(5):
        for slot in range(3):
            node, token = int(seen.nodes[request, slot]), int(seen.tokens[request, slot])
            if slot >= int(seen.lengths[request]):
                assert seen.logprobs[request, slot] == seen.original_logprobs[request, slot] == 0.0
                assert (seen.top_tokens[request, slot] == -1).all()
                continue
            emitted += 1
            row = case.logits[node].double()
            temperature = 1.0 if kind == "greedy" else float(case.rows.temperatures[request])
            tempered = torch.log_softmax(row / temperature, 0)
            assert abs(float(seen.logprobs[request, slot] - tempered[token])) < 1e-5
            assert abs(float(seen.original_logprobs[request, slot] - torch.log_softmax(row, 0)[token])) < 1e-5
            values, tokens = tempered.topk(4)
            assert seen.top_tokens[request, slot].tolist() == tokens.tolist()
            torch.testing.assert_close(seen.top_logprobs[request, slot], values.float(), rtol=0, atol=1e-5)
    assert emitted > 7
