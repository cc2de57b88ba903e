"""Masks, bits, positions and links in one launch, against the loop from the definition."""

from __future__ import annotations

import pytest
import torch

from bench.verify.cases import random_parents
from sglang_seer.kernels.tree_mask import tree_metadata_triton
from sglang_seer.verify.tree_mask import is_chain, tree_metadata
from tests.kernels.interpreted.comparison import poisoned

FIELDS = ("bits", "positions", "retrieve_index", "retrieve_next_token", "retrieve_next_sibling")


def trees(bs: int, width: int, seed: int, padding: float = 0.1) -> torch.Tensor:
    return random_parents(bs, width, torch.Generator().manual_seed(seed), chain=False, padding=padding)


@pytest.mark.parametrize(("bs", "width"), [(1, 1), (3, 2), (5, 9), (2, 33), (1, 64), (63, 3)])
def test_equal_to_the_definition(bs: int, width: int) -> None:
    """Short prefixes lie within one word, long ones over many runs of words; row starts have all alignments."""
    parents = trees(bs, width, bs + width)
    generator = torch.Generator().manual_seed(bs)
    for most in (1, 9, 40, 5000) if bs * width < 60 else (30,):
        seq_lens = torch.randint(0, most, (bs,), generator=generator)
        with poisoned():
            seen = tree_metadata_triton(parents, seq_lens, int(seq_lens.sum()))
        wanted = tree_metadata(parents, seq_lens, with_mask=True)
        assert seen.mask is not None and wanted.mask is not None
        assert torch.equal(seen.mask.view(torch.int8), wanted.mask.view(torch.int8))
        for name in FIELDS:
            assert torch.equal(getattr(seen, name), getattr(wanted, name)), name


def test_a_buffer_is_written_no_further_than_the_mask() -> None:
    parents, seq_lens = trees(3, 5, 1), torch.tensor([3, 8, 21], dtype=torch.int32)
    buffer = torch.full((512,), 9, dtype=torch.uint8).view(torch.bool)
    seen = tree_metadata_triton(parents, seq_lens, 32, mask_buffer=buffer)
    wanted = tree_metadata(parents, seq_lens, with_mask=True)
    assert seen.mask is not None and torch.equal(seen.mask, wanted.mask)
    assert seen.mask.data_ptr() == buffer.data_ptr()
    assert (buffer.view(torch.uint8)[seen.mask.numel() :] == 9).all()


def test_no_mask_for_chains() -> None:
    parents = torch.tensor([[-1, 0, 1, 2], [-1, 0, -1, -1]], dtype=torch.int32)
    assert is_chain(parents)
    assert not is_chain(torch.tensor([[-1, 0, 0]], dtype=torch.int32))
    assert not is_chain(torch.tensor([[-1, -1, 0]], dtype=torch.int32))
    with poisoned():
        seen = tree_metadata_triton(parents, torch.tensor([7, 2]), None)
    wanted = tree_metadata(parents, torch.tensor([7, 2]), with_mask=False)
    assert seen.mask is None
    for name in FIELDS:
        assert torch.equal(getattr(seen, name), getattr(wanted, name)), name
    assert seen.positions.tolist() == [7, 8, 9, 10, 2, 3, 2, 2]
    assert seen.bits.tolist() == [[1, 3, 7, 15], [1, 3, 4, 8]]


@pytest.mark.parametrize(
    ("parents", "seq_lens", "message"),
    [
        (
            torch.zeros(2, 65, dtype=torch.int32),
            torch.zeros(2, dtype=torch.int64),
            "got 65 nodes a tree",
        ),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), "parents: got torch.float32"),
        (torch.zeros(2, 3, dtype=torch.int32), torch.zeros(3, dtype=torch.int64), "wanted \\[2\\] integers"),
    ],
)
def test_bad_input(parents: torch.Tensor, seq_lens: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tree_metadata_triton(parents, seq_lens, 0)


def test_a_buffer_that_is_too_small() -> None:
    with pytest.raises(ValueError, match=r"mask buffer: got 8 of torch\.bool, wanted 10"):
        tree_metadata_triton(
            torch.tensor([[-1, 0]], dtype=torch.int32),
            torch.tensor([3]),
            3,
            mask_buffer=torch.zeros(8, dtype=torch.bool),
        )
