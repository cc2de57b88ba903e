"""The n largest log-probabilities of every emitted token's row, from the groups' maxima that the scan left.

Reference: torch.topk over log_softmax. Among equal logits the smaller token comes first.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sglang_seer.kernels.rows import GREEDY_TEMPERATURE, GROUP, NO_TOKEN, load_logits, pack, sort_key


@triton.jit(do_not_specialize=["width", "bias_repeat", "num_top"])
def top_logprobs_kernel(
    logits_ptr,  # [rows, vocab] float
    logits_stride,
    bias_ptr,  # [rows / bias_repeat, vocab] float, or unused
    bias_stride,
    bias_repeat,
    mask_ptr,  # [rows, ceil(vocab / 32)] int32, or unused
    mask_stride,
    temperatures_ptr,  # [bs] float32
    nodes_ptr,  # [bs, width] int32
    maxima_ptr,  # [rows, groups] float32
    normalizers_ptr,  # [2, rows] float32
    top_tokens_ptr,  # [bs, width, num_top] int32, out
    top_logprobs_ptr,  # [bs, width, num_top] float32, out
    vocab,
    rows,
    width,
    num_top,
    UNSCALED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Grid (bs, width): take the best group's best column not taken yet, num_top times."""
    request = tl.program_id(0)
    slot = request * width + tl.program_id(1)
    out = slot.to(tl.int64) * num_top
    row = tl.load(nodes_ptr + slot).to(tl.int64)
    if row < 0:
        for i in range(num_top):
            tl.store(top_tokens_ptr + out + i, -1)
            tl.store(top_logprobs_ptr + out + i, 0.0)
    else:
        temperature = tl.load(temperatures_ptr + request)
        temperature = tl.where((temperature < GREEDY_TEMPERATURE) | UNSCALED, 1.0, temperature)
        shift = tl.div_rn(tl.load(normalizers_ptr + row), temperature)
        log_total = tl.load(normalizers_ptr + rows + row)
        logits_ptr += row * logits_stride
        bias_ptr += (row // bias_repeat) * bias_stride
        mask_ptr += row * mask_stride
        groups = tl.arange(0, GROUPS)
        known = groups * GROUP < vocab
        maxima = tl.load(maxima_ptr + row * tl.cdiv(vocab, GROUP) + groups, mask=known, other=float("-inf"))
        keys = tl.where(known, sort_key(maxima), -2147483648)
        lanes = tl.arange(0, GROUP)
        last = tl.full((), 9223372036854775807, tl.int64)
        for i in range(num_top):
            # The smallest group among equals holds the smallest columns.
            group = tl.min(tl.where(keys == tl.max(keys, axis=0), groups, GROUPS - 1), axis=0)
            columns = group * GROUP + lanes
            inside = columns < vocab
            logits = load_logits(logits_ptr, bias_ptr, mask_ptr, columns, inside, HAS_BIAS, HAS_MASK)
            packed = pack(sort_key(logits), columns)
            packed = tl.where(inside & (packed < last), packed, -9223372036854775808)
            best = tl.max(packed, axis=0)
            is_best = packed == best
            value = tl.div_rn(tl.max(tl.where(is_best, logits, float("-inf")), axis=0), temperature)
            logprob = (value - shift) - log_total
            logprob = tl.where(logprob < -3.4028234663852886e38, -3.4028234663852886e38, logprob)
            tl.store(top_tokens_ptr + out + i, tl.min(tl.where(is_best, columns, NO_TOKEN), axis=0))
            tl.store(top_logprobs_ptr + out + i, logprob)
            last = best
            left = tl.max(tl.where(packed < best, packed, -9223372036854775808), axis=0)
            keys = tl.where(groups == group, (left >> 32).to(tl.int32), keys)
