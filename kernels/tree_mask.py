"""What attention and SGLang's tree walk need of a batch of trees, in one launch from parents and lengths.

SGLang's FULL_MASK holds, for each request, its [width, seq_len + width] rows one after another: the prefix all seen,
then which nodes a node sees. Almost all of it is ones, so whole 8-byte words are stored where a row allows it.
Reference: `sglang_seer.verify.tree_mask`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_seer.verify.tree_mask import TreeMetadata, check_trees

# Words of ones a program stores at a time, and programs a row; a program takes every PROGRAMS-th run of words.
_WORDS = 512
_PROGRAMS = 4
_WORD_BYTES = 8


@triton.jit
def _ancestry(parents, lanes, node):
    """(bits of the node and its ancestors, int64; its depth)."""
    bits = tl.full((), 0, tl.int64)
    steps = tl.full((), -1, tl.int32)
    at = node
    # A parent comes before its child, so this ends; the bound holds for parents that are not trees.
    while (at >= 0) & (steps < node):
        bits = bits | (tl.full((), 1, tl.int64) << at.to(tl.int64))
        steps += 1
        at = tl.sum(tl.where(lanes == at, parents, 0), axis=0)
    return bits, steps


@triton.jit(do_not_specialize=["bs", "width"])
def tree_mask_kernel(
    parents_ptr,  # [bs, width] int32
    seq_lens_ptr,  # [bs] int, tokens before the root
    mask_ptr,  # flat bool as bytes, out, or unused
    words_ptr,  # the same memory as 8-byte words
    bits_ptr,  # [bs, width] int64, out
    positions_ptr,  # [bs * width] int64, out
    index_ptr,  # [bs, width] int64, out
    next_token_ptr,  # [bs, width] int64, out
    next_sibling_ptr,  # [bs, width] int64, out
    bs,
    width,
    MASK: tl.constexpr,
    BATCH: tl.constexpr,  # powers of two, at least bs and width
    WIDTH: tl.constexpr,
    ENDS: tl.constexpr,  # power of two, at least width + 7
    WORDS: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """Grid (bs * width, PROGRAMS): one row of the mask by several programs, of which the first does the rest."""
    slot = tl.program_id(0)
    part = tl.program_id(1)
    request = slot // width
    node = slot % width
    lanes = tl.arange(0, WIDTH)
    parents = tl.load(parents_ptr + request * width + lanes, mask=lanes < width, other=-1)
    seq_len = tl.load(seq_lens_ptr + request).to(tl.int64)
    if MASK:
        batch = tl.arange(0, BATCH)
        before = tl.sum(tl.load(seq_lens_ptr + batch, mask=batch < request, other=0).to(tl.int64), axis=0)
        start = before * width + request.to(tl.int64) * width * width + node * (seq_len + width)
        end = start + seq_len
        first_word = (start + 7) // 8
        last_word = tl.maximum(end // 8, first_word)
        words = tl.arange(0, WORDS)
        for word in range(first_word + part * WORDS, last_word, PROGRAMS * WORDS):
            tl.store(words_ptr + word + words, 0x0101010101010101, mask=word + words < last_word)
    if part == 0:
        bits, depth = _ancestry(parents, lanes, node)
        if MASK:
            # The prefix's bytes outside whole words, then the nodes.
            ends = tl.arange(0, ENDS)
            head = start + ends
            tl.store(mask_ptr + head, tl.full((ENDS,), 1, tl.int8), mask=head < tl.minimum(first_word * 8, end))
            tail = last_word * 8 + ends
            seen = (bits >> tl.minimum(tl.maximum(tail - end, 0), 63)) & 1
            value = tl.where(tail < end, 1, seen).to(tl.int8)
            # A prefix that holds no whole word begins in its head.
            tl.store(mask_ptr + tail, value, mask=(tail >= start) & (tail < end + width))
            early = end + ends
            seen = (bits >> tl.minimum(ends, 63).to(tl.int64)) & 1
            tl.store(mask_ptr + early, seen.to(tl.int8), mask=(early < last_word * 8) & (ends < width))
        parent = tl.sum(tl.where(lanes == node, parents, 0), axis=0)
        child = tl.min(tl.where((parents == node) & (lanes < width), lanes, WIDTH), axis=0)
        same = (parents == parent) & (lanes > node) & (lanes < width) & (parent >= 0)
        sibling = tl.min(tl.where(same, lanes, WIDTH), axis=0)
        tl.store(bits_ptr + slot, bits)
        tl.store(positions_ptr + slot, seq_len + depth)
        tl.store(index_ptr + slot, slot.to(tl.int64))
        tl.store(next_token_ptr + slot, tl.where(child < WIDTH, child, -1).to(tl.int64))
        tl.store(next_sibling_ptr + slot, tl.where(sibling < WIDTH, sibling, -1).to(tl.int64))


def tree_metadata_triton(
    parents: torch.Tensor,
    seq_lens: torch.Tensor,
    total_tokens: int | None,
    *,
    mask_buffer: torch.Tensor | None = None,
) -> TreeMetadata:
    """Same contract as `sglang_seer.verify.tree_mask.tree_metadata`, in one launch.

    total_tokens: sum of seq_lens, which the host knows; None for no mask (chains). mask_buffer: bool memory that the
    mask is written to, at least its size rounded up to 8 (a captured graph needs it to stay).
    """
    check_trees(parents, seq_lens)
    bs, width = parents.shape
    device = parents.device
    size = 0 if total_tokens is None else width * total_tokens + bs * width * width
    if mask_buffer is None:
        padded = triton.cdiv(size, _WORD_BYTES) * _WORD_BYTES
        mask_buffer = torch.empty(max(padded, _WORD_BYTES), dtype=torch.bool, device=device)
    elif mask_buffer.dtype != torch.bool or mask_buffer.numel() < size or mask_buffer.data_ptr() % _WORD_BYTES:
        raise ValueError(
            f"mask buffer: got {mask_buffer.numel()} of {mask_buffer.dtype}, "
            f"wanted {size} of torch.bool at a multiple of 8 bytes"
        )
    whole = mask_buffer[: mask_buffer.numel() // _WORD_BYTES * _WORD_BYTES]
    metadata = torch.empty((5, bs, width), dtype=torch.int64, device=device)
    tree_mask_kernel[(bs * width, _PROGRAMS if total_tokens else 1)](
        parents.contiguous(),
        seq_lens.contiguous(),
        mask_buffer.view(torch.int8),
        whole.view(torch.int64),
        *metadata,
        bs,
        width,
        MASK=total_tokens is not None,
        BATCH=triton.next_power_of_2(bs),
        WIDTH=triton.next_power_of_2(width),
        ENDS=triton.next_power_of_2(width + _WORD_BYTES - 1),
        WORDS=_WORDS,
        PROGRAMS=_PROGRAMS if total_tokens else 1,
        num_warps=2,
    )
    return TreeMetadata(
        mask=None if total_tokens is None else mask_buffer[:size],
        bits=metadata[0],
        positions=metadata[1].flatten(),
        retrieve_index=metadata[2],
        retrieve_next_token=metadata[3],
        retrieve_next_sibling=metadata[4],
    )
