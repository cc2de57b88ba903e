"""Triton verifier: one pass over the logits per row for greedy and pure temperature sampling, then the tree walk.

Rows with top-k, top-p or min-p are drawn by the torch reference and handed to the same walk.
Reference: `sglang_seer.verify`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_seer.verify import Accepted, SamplingRows, draw

_BLOCK = 1024
_REFERENCE_ROWS = 64


@triton.jit
def _mix(state, block):
    block = (block * 0xCC9E2D51) & 0xFFFFFFFF
    block = ((block << 15) | (block >> 17)) & 0xFFFFFFFF
    block = (block * 0x1B873593) & 0xFFFFFFFF
    state = state ^ block
    state = ((state << 13) | (state >> 19)) & 0xFFFFFFFF
    return (state * 5 + 0xE6546B64) & 0xFFFFFFFF


@triton.jit
def _murmur_hash32(seed, position, columns):
    """MurmurHash3 (x86, 32 bit) over seed low, seed high, position, column; values in 64-bit registers."""
    state = _mix(0, seed & 0xFFFFFFFF)
    state = _mix(state, (seed >> 32) & 0xFFFFFFFF)
    state = _mix(state, position & 0xFFFFFFFF)
    state = _mix(state, columns)
    state = state ^ 16
    state = state ^ (state >> 16)
    state = (state * 0x85EBCA6B) & 0xFFFFFFFF
    state = state ^ (state >> 13)
    state = (state * 0xC2B2AE35) & 0xFFFFFFFF
    return state ^ (state >> 16)


@triton.jit
def _draw_kernel(
    logits_ptr,  # [rows, vocab] float
    logits_stride,
    temperatures_ptr,  # [bs] float32
    top_ks_ptr,  # [bs] int32, 1 means greedy
    seeds_ptr,  # [bs] int64
    positions_ptr,  # [rows] int64
    drawn_ptr,  # [rows] int64, out
    vocab,
    width,
    BLOCK: tl.constexpr,
):
    """One program a row: argmax of logit / temperature + Gumbel noise in float64 (of the logit alone if greedy)."""
    row = tl.program_id(0).to(tl.int64)
    request = row // width
    temperature = tl.load(temperatures_ptr + request)
    greedy = tl.load(top_ks_ptr + request) == 1
    seed = tl.load(seeds_ptr + request)
    position = tl.load(positions_ptr + row)
    best = tl.full((), float("-inf"), tl.float64)
    best_token = tl.full((), 0, tl.int64)
    for start in range(0, vocab, BLOCK):
        columns = start + tl.arange(0, BLOCK).to(tl.int64)
        inside = columns < vocab
        logits = tl.load(logits_ptr + row * logits_stride + columns, mask=inside, other=float("-inf")).to(tl.float32)
        uniform = _murmur_hash32(seed, position, columns).to(tl.float64) / 4294967295.0
        # Cap and floor as in SGLang: hash 2**32 - 1 and hash 0 must not give infinite noise.
        log_uniform = tl.minimum(tl.log(tl.maximum(uniform, 5e-324)), -2.3283064365386963e-10)
        log_uniform = tl.where(uniform == 0.0, -1.7976931348623157e308, log_uniform)
        noise = -tl.log(-log_uniform)
        score = tl.where(greedy, logits.to(tl.float64), tl.div_rn(logits, temperature).to(tl.float64) + noise)
        score = tl.where(inside, score, float("-inf"))
        block_best = tl.max(score, axis=0)
        # The smallest column among equals, as argmax takes.
        block_token = tl.min(tl.where(score == block_best, columns, vocab), axis=0)
        better = block_best > best
        best_token = tl.where(better, block_token, best_token)
        best = tl.where(better, block_best, best)
    tl.store(drawn_ptr + row, best_token)


@triton.jit
def _walk_kernel(
    draft_tokens_ptr,  # [bs, width] int32
    parents_ptr,  # [bs, width] int32
    drawn_ptr,  # [bs * width] int64
    tokens_ptr,  # [bs, width] int32, out
    nodes_ptr,  # [bs, width] int32, out
    lengths_ptr,  # [bs] int32, out
    width,
    BLOCK: tl.constexpr,
):
    """One program a request: follow the child that carries the drawn token."""
    request = tl.program_id(0)
    base = request * width
    lanes = tl.arange(0, BLOCK)
    inside = lanes < width
    tokens = tl.load(draft_tokens_ptr + base + lanes, mask=inside, other=-1).to(tl.int64)
    parents = tl.load(parents_ptr + base + lanes, mask=inside, other=-1)
    node = tl.full((), 0, tl.int32)
    length = tl.full((), 0, tl.int32)
    for depth in range(width):
        walking = node >= 0
        at = tl.maximum(node, 0)
        token = tl.load(drawn_ptr + base + at)
        tl.store(tokens_ptr + base + depth, tl.where(walking, token, 0).to(tl.int32))
        tl.store(nodes_ptr + base + depth, tl.where(walking, base + at, -1))
        length += walking.to(tl.int32)
        is_child = inside & (parents == at) & (tokens == token)
        child = tl.min(tl.where(is_child, lanes, BLOCK), axis=0)
        node = tl.where(walking & (child < BLOCK), child, -1)
    tl.store(lengths_ptr + request, length)


def verify_tree_triton(
    logits: torch.Tensor,
    draft_tokens: torch.Tensor,
    parents: torch.Tensor,
    positions: torch.Tensor,
    rows: SamplingRows,
) -> Accepted:
    """Same contract as `sglang_seer.verify.verify_tree`."""
    bs, width = draft_tokens.shape
    if logits.shape[0] != bs * width:
        raise ValueError(f"logits: got {logits.shape[0]} rows, wanted {bs} requests * {width} nodes = {bs * width}")
    if logits.stride(1) != 1:
        raise ValueError(f"logits: got column stride {logits.stride(1)}, wanted 1")
    drawn = torch.empty(bs * width, dtype=torch.int64, device=logits.device)
    _draw_kernel[(bs * width,)](
        logits,
        logits.stride(0),
        rows.temperatures.contiguous(),
        rows.top_ks.contiguous(),
        rows.seeds.contiguous(),
        positions.contiguous(),
        drawn,
        logits.shape[1],
        width,
        BLOCK=_BLOCK,
    )
    if rows.any_filter:
        by_row = rows.repeat(width)
        # The reference holds several float64 copies of its rows: a few at a time.
        for picked in by_row.filtered(logits.shape[1]).nonzero().view(-1).split(_REFERENCE_ROWS):
            drawn[picked] = draw(logits[picked], by_row.take(picked), positions[picked])
    tokens = torch.empty((bs, width), dtype=torch.int32, device=logits.device)
    nodes = torch.empty_like(tokens)
    lengths = torch.empty(bs, dtype=torch.int32, device=logits.device)
    _walk_kernel[(bs,)](
        draft_tokens.contiguous(),
        parents.contiguous(),
        drawn.contiguous(),
        tokens,
        nodes,
        lengths,
        width,
        BLOCK=triton.next_power_of_2(width),
    )
    return Accepted(tokens=tokens, nodes=nodes, lengths=lengths)
