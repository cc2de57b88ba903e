"""Which slots a token attends to, against a definition written token by token."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_seer_cpu import attention_plan
from sglang_seer_cpu.attention_plan import AttentionBlock, plan_attention, tree_mask

MAX_CONTEXT = 64
WIDTH = 5


def _batch(mode: str, prefix_lens: list[int], q_lens: list[int], mask: torch.Tensor | None = None) -> Any:
    prefix = torch.tensor(prefix_lens)
    seq_lens = prefix + 1 if mode == "decode" else prefix if mode == "verify" else prefix + torch.tensor(q_lens)
    return SimpleNamespace(
        forward_mode=SimpleNamespace(
            is_idle=lambda: mode == "idle",
            is_target_verify=lambda: mode == "verify",
            is_decode=lambda: mode == "decode",
        ),
        seq_lens=seq_lens,
        extend_prefix_lens=prefix,
        extend_seq_lens=torch.tensor(q_lens),
        req_pool_indices=torch.arange(len(prefix_lens)).flip(0),
        spec_info=SimpleNamespace(draft_token_num=WIDTH, custom_mask=mask),
    )


def _seen_slots(blocks: list[AttentionBlock]) -> list[list[int]]:
    """Of each token, in order, the slots that its attention sees."""
    seen: dict[int, list[int]] = {}
    for block in blocks:
        rows = iter(block.rows.tolist())
        for slots, unseen, q_len in zip(block.slots, block.unseen, block.q_lens, strict=True):
            for row in unseen[:q_len]:
                seen[next(rows)] = slots[~row].tolist()
    assert sorted(seen) == list(range(len(seen)))
    return [seen[row] for row in range(len(seen))]


@st.composite
def _batches(draw: st.DrawFn) -> tuple[str, list[int], list[int], torch.Tensor]:
    mode = draw(st.sampled_from(["decode", "extend", "verify"]))
    prefix_lens = draw(st.lists(st.integers(0, 30), min_size=1, max_size=6))
    lengths = {"decode": st.just(1), "verify": st.just(WIDTH), "extend": st.integers(1, 20)}[mode]
    q_lens = [draw(lengths) for _ in prefix_lens]
    parents = [[0] + [draw(st.integers(0, node - 1)) for node in range(1, WIDTH)] for _ in prefix_lens]
    trees = torch.zeros(len(prefix_lens), WIDTH, WIDTH, dtype=torch.bool)
    for tree, tree_parents in zip(trees, parents, strict=True):
        for node in range(WIDTH):
            if node:
                tree[node] = tree[tree_parents[node]]
            tree[node, node] = True
    return mode, prefix_lens, q_lens, trees


@given(_batches(), st.booleans(), st.sampled_from([1, 600, 1 << 22]))
@settings(max_examples=150, deadline=None)
def test_each_token_sees_its_prefix_and_its_ancestors(
    batch: tuple[str, list[int], list[int], torch.Tensor], full_mask: bool, max_cells: int
) -> None:
    mode, prefix_lens, q_lens, trees = batch
    pool = torch.arange(len(prefix_lens) * MAX_CONTEXT, dtype=torch.int32).view(-1, MAX_CONTEXT) + 1
    mask = trees.flatten()
    if full_mask:
        rows = [
            torch.cat([torch.ones(WIDTH, p, dtype=torch.bool), t], 1) for p, t in zip(prefix_lens, trees, strict=True)
        ]
        mask = torch.cat([row.flatten() for row in rows])
    with pytest.MonkeyPatch.context() as patch:
        # Few cells: each request is a block of its own, and a long prefill several.
        patch.setattr(attention_plan, "_MAX_BLOCK_CELLS", max_cells)
        blocks = plan_attention(_batch(mode, prefix_lens, q_lens, mask), pool)
    expected = []
    for request, (prefix, q_len) in enumerate(zip(prefix_lens, q_lens, strict=True)):
        slots = pool.flip(0)[request]
        for row in range(q_len):
            own = trees[request, row].nonzero().flatten().tolist() if mode == "verify" else range(row + 1)
            expected.append([int(slots[position]) for position in [*range(prefix), *(prefix + node for node in own)]])
    assert _seen_slots(blocks) == expected


def test_padding_and_back() -> None:
    """The block has its requests by length: the second, the first, the third."""
    pool = torch.arange(3 * MAX_CONTEXT, dtype=torch.int32).view(3, -1)
    (block,) = plan_attention(_batch("extend", [4, 0, 9], [3, 1, 2]), pool)
    tokens = torch.arange(6.0).view(6, 1, 1)
    padded = block.pad(tokens)
    assert padded[:, :, 0, 0].tolist() == [[3, 0, 0], [0, 1, 2], [4, 5, 0]]
    output = torch.full_like(tokens, torch.nan)
    block.unpad(padded, output)
    assert torch.equal(output, tokens)


def test_an_idle_pass_attends_to_nothing() -> None:
    assert plan_attention(_batch("idle", [1], [1]), torch.zeros(1, 8, dtype=torch.int32)) == []


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tree mask of 7 cells for 1 requests of width 5; wanted 40"):
        tree_mask(torch.ones(7, dtype=torch.bool), torch.tensor([3]), WIDTH)
