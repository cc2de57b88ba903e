"""From the sections' bests to the rows' draws, and the walk along them; log-probabilities of what was emitted.

Reference: `sglang_seer.verify.walk`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sglang_seer.kernels.noise import LOG2_E
from sglang_seer.kernels.rows import (
    BROKEN,
    GREEDY_TEMPERATURE,
    LOWEST,
    NEAR_TIE,
    NO_TOKEN,
    SETTLED,
    exponent_scale,
    load_logits,
    merge_sums,
)


@triton.jit
def drawn_tokens(
    at, inside, request, temperatures_ptr, top_ks_ptr, scores_ptr, winners_ptr, stats_ptr, drawn_ptr, row_flags_ptr,
    vocab, rows, splits, ALL_GREEDY: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Join the sections of some rows: (token, flags, maximum, sum, sum without temperature), each [len(at)].

    at: [n] int rows. inside: [n] bool. request: [n] int, the request of each row.
    """
    lanes = tl.arange(0, SPLITS)
    cells = at.to(tl.int64)[:, None] * splits + lanes[None, :]
    mask = inside[:, None] & (lanes < splits)[None, :]
    plane = rows.to(tl.int64) * splits
    scores = tl.load(scores_ptr + cells, mask=mask, other=float("-inf"))
    winners = tl.load(winners_ptr + cells, mask=mask, other=NO_TOKEN)
    runners = tl.load(stats_ptr + cells, mask=mask, other=float("-inf"))
    best = tl.max(scores, axis=1)
    token = tl.min(tl.where(scores == best[:, None], winners, NO_TOKEN), axis=1)
    others = tl.where(winners == token[:, None], runners, scores.to(tl.float32))
    runner_up = tl.max(others, axis=1)

    temperature = tl.load(temperatures_ptr + request, mask=inside, other=1.0)
    greedy = (tl.load(top_ks_ptr + request, mask=inside, other=1) == 1) | (temperature < GREEDY_TEMPERATURE)
    temperature = tl.where((temperature < GREEDY_TEMPERATURE) | ALL_GREEDY, 1.0, temperature)
    tops = tl.load(stats_ptr + plane + cells, mask=mask, other=LOWEST)
    sums = tl.load(stats_ptr + 2 * plane + cells, mask=mask, other=0.0)
    original_sums = tl.load(stats_ptr + 3 * plane + cells, mask=mask, other=0.0)
    top, total = merge_sums(tops, sums, exponent_scale(temperature)[:, None], 1)
    top, total_original = merge_sums(tops, original_sums, LOG2_E, 1)

    # A softmax over NaN, plus infinity or nothing is NaN everywhere, and argmax takes the first NaN.
    broken = (total != total) | (top <= LOWEST)
    token = tl.where((broken & (greedy == 0)) | (token >= vocab), 0, token)
    # SGLang rounds log(softmax) to float32, off by up to 2**-16 a token; runner-ups are float32 to some 2**-13.
    near = runner_up >= best - (0.000244140625 + tl.abs(best) * 1.9073486328125e-06)
    flags = tl.where(near & (greedy == 0), NEAR_TIE, 0) | tl.where(broken, BROKEN, 0)
    settled = tl.load(drawn_ptr + at, mask=inside, other=-1)
    row_flags = tl.load(row_flags_ptr + at, mask=inside, other=0)
    flags = tl.where(settled >= 0, (flags & BROKEN) | row_flags, flags)
    token = tl.where((settled >= 0) & ((broken == 0) | ((row_flags & SETTLED) != 0)), settled, token)
    return token, flags, top, total, total_original


@triton.jit
def find_child(draft_tokens_ptr, parents_ptr, request, node, token, width, WIDTH: tl.constexpr):
    """The child of a node that carries a token, -1 for none."""
    lanes = tl.arange(0, WIDTH)
    tokens = tl.load(draft_tokens_ptr + request * width + lanes, mask=lanes < width, other=-1)
    parents = tl.load(parents_ptr + request * width + lanes, mask=lanes < width, other=-1)
    child = tl.min(tl.where((parents == node) & (tokens == token), lanes, WIDTH), axis=0)
    return tl.where(child < WIDTH, child, -1)


@triton.jit
def _pick(values, lanes, index):
    """values[index] for vectors of one length; 0 where the index is none of the lanes."""
    return tl.sum(tl.where(index[:, None] == lanes[None, :], values[None, :], 0), axis=1)


@triton.jit(do_not_specialize=["width", "splits", "bias_repeat"])
def finish_kernel(
    logits_ptr,  # [rows, vocab] float
    logits_stride,
    bias_ptr,  # [rows / bias_repeat, vocab] float, or unused
    bias_stride,
    bias_repeat,
    mask_ptr,  # [rows, ceil(vocab / 32)] int32, or unused
    mask_stride,
    temperatures_ptr,  # [bs] float32
    top_ks_ptr,  # [bs] int32
    draft_tokens_ptr,  # [bs, width] int32
    parents_ptr,  # [bs, width] int32
    scores_ptr,  # [rows, splits] float64
    winners_ptr,  # [rows, splits] int32
    stats_ptr,  # [4, rows, splits] float32
    drawn_ptr,  # [rows] int32
    row_flags_ptr,  # [rows] int32
    tokens_ptr,  # [bs, width] int32, out
    nodes_ptr,  # [bs, width] int32, out
    lengths_ptr,  # [bs] int32, out
    flags_ptr,  # [bs, width] int32, out
    logprobs_ptr,  # [bs, width] float32, out, or unused
    original_ptr,  # [bs, width] float32, out, or unused
    normalizers_ptr,  # [2, rows] float32, out: maximum and log of its sum, or unused
    vocab,
    rows,
    width,
    splits,
    ALL_GREEDY: tl.constexpr,
    TEMPERED: tl.constexpr,
    ORIGINAL: tl.constexpr,
    NORMALIZERS: tl.constexpr,  # 0 none, 1 with temperature, 2 without
    HAS_BIAS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """One program a request: join all its rows at once, walk in registers, then all log-probabilities at once."""
    request = tl.program_id(0)
    lanes = tl.arange(0, WIDTH)
    inside = lanes < width
    base = request * width
    drafts = tl.load(draft_tokens_ptr + base + lanes, mask=inside, other=-1)
    parents = tl.load(parents_ptr + base + lanes, mask=inside, other=-1)
    drawn, row_flags, top, total, total_original = drawn_tokens(
        base + lanes, inside, lanes * 0 + request, temperatures_ptr, top_ks_ptr, scores_ptr, winners_ptr, stats_ptr,
        drawn_ptr, row_flags_ptr, vocab, rows, splits, ALL_GREEDY, SPLITS,
    )  # fmt: skip

    tokens = tl.zeros((WIDTH,), tl.int32)
    nodes = tl.full((WIDTH,), -1, tl.int32)
    node = tl.full((), 0, tl.int32)
    length = tl.full((), 0, tl.int32)
    while (node >= 0) & (length < width):
        token = tl.sum(tl.where(lanes == node, drawn, 0), axis=0)
        tokens = tl.where(lanes == length, token, tokens)
        nodes = tl.where(lanes == length, node, nodes)
        length += 1
        child = tl.min(tl.where((parents == node) & (drafts == token), lanes, WIDTH), axis=0)
        node = tl.where(child < WIDTH, child, -1)

    emitted = lanes < length
    out = base + lanes
    tl.store(tokens_ptr + out, tokens, mask=inside)
    tl.store(nodes_ptr + out, tl.where(emitted, base + nodes, -1), mask=inside)
    tl.store(lengths_ptr + request, length)
    tl.store(flags_ptr + out, _pick(row_flags, lanes, nodes), mask=inside)
    if TEMPERED | ORIGINAL:
        row = (base + tl.maximum(nodes, 0)).to(tl.int64)
        logits = load_logits(
            logits_ptr + row * logits_stride, bias_ptr + (row // bias_repeat) * bias_stride,
            mask_ptr + row * mask_stride, tokens, emitted, HAS_BIAS, HAS_MASK,
        )  # fmt: skip
        path_top = _pick(top, lanes, nodes)
        if TEMPERED:
            temperature = tl.load(temperatures_ptr + request)
            temperature = tl.where((temperature < GREEDY_TEMPERATURE) | ALL_GREEDY, 1.0, temperature)
            shifted = tl.div_rn(logits, temperature) - tl.div_rn(path_top, temperature)
            _store_logprobs(logprobs_ptr + out, shifted, _pick(total, lanes, nodes), emitted, inside)
        if ORIGINAL:
            _store_logprobs(original_ptr + out, logits - path_top, _pick(total_original, lanes, nodes), emitted, inside)
    if NORMALIZERS:
        tl.store(normalizers_ptr + out, top, mask=inside)
        tl.store(normalizers_ptr + rows + out, tl.log(total_original if NORMALIZERS == 2 else total), mask=inside)


@triton.jit
def _store_logprobs(pointers, shifted, total, emitted, inside):
    logprobs = shifted - tl.log(total)
    # As SGLang: the lowest float instead of minus infinity; NaN stays NaN.
    logprobs = tl.where(logprobs < -3.4028234663852886e38, -3.4028234663852886e38, logprobs)
    tl.store(pointers, tl.where(emitted, logprobs, 0.0), mask=inside)
