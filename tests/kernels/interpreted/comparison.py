"""The kernels and the reference side by side, on memory that was poisoned before."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from bench.verify.cases import Case
from sglang_seer.kernels.schedule import Schedule, split_sections
from sglang_seer.kernels.verify import verify_tree_triton
from sglang_seer.verify import Accepted, DrawFlag, Logprobs, verify_tree

EVERYTHING = Logprobs(tempered=True, original=True)
LOGPROB_ERROR = 2e-5
FIELDS = ("logprobs", "original_logprobs")


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """torch.empty gives NaN and odd numbers: an output that nobody wrote is seen."""
    real = torch.empty

    def empty(*shape: Any, **given: Any) -> torch.Tensor:
        tensor = real(*shape, **given)
        if tensor.dtype == torch.bool:
            return tensor.view(torch.uint8).fill_(7).view(torch.bool)
        return tensor.fill_(float("nan") if tensor.is_floating_point() else -77)

    torch.empty = empty  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.empty = real  # type: ignore[assignment]


def schedule_of(
    vocab: int, *, walk: bool = False, splits: int = 2, block: int = 2048, capacity: int = 64, tile: int = 1024
) -> Schedule:
    """A layout for the interpreter: large blocks, few programs."""
    splits, section = split_sections(vocab, splits, block)
    return Schedule(walk=walk, splits=splits, section=section, block=block, again=block, capacity=capacity, tile=tile)


def arguments(case: Case) -> dict[str, Any]:
    fields = {field.name: getattr(case, field.name) for field in dataclasses.fields(case)}
    del fields["levels"]
    return fields


def assert_equal(case: Case, want: Logprobs = EVERYTHING, **options: Any) -> tuple[Accepted, Accepted]:
    """Both results; raises AssertionError unless tokens, nodes and lengths are equal and log-probabilities close."""
    wanted = verify_tree(**arguments(case), want=want)
    with poisoned():
        seen = verify_tree_triton(**arguments(case), want=want, **options)
    assert torch.equal(wanted.lengths, seen.lengths), (wanted.lengths, seen.lengths)
    assert torch.equal(wanted.tokens, seen.tokens), (wanted.tokens, seen.tokens)
    assert torch.equal(wanted.nodes, seen.nodes), (wanted.nodes, seen.nodes)
    for name in FIELDS:
        if getattr(wanted, name) is not None:
            torch.testing.assert_close(
                getattr(seen, name), getattr(wanted, name), rtol=2e-6, atol=LOGPROB_ERROR, equal_nan=True
            )
    assert seen.flags is not None
    assert ((seen.flags >= 0) & (seen.flags <= sum(DrawFlag))).all(), seen.flags
    return wanted, seen
