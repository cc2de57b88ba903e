"""What the verifier's kernels share about one row of logits: loading it, ordering it, its flags."""

from __future__ import annotations

import triton
import triton.language as tl

from sglang_seer.kernels.noise import fast_exp2

# Columns of one group, whose largest logit a survey keeps.
GROUP = tl.constexpr(32)
# Neighbouring columns that one thread reads at once.
QUAD = tl.constexpr(4)
# Below every finite logit that is a logit: the start of a running maximum.
LOWEST = tl.constexpr(-3.0e38)
NO_TOKEN = tl.constexpr(2147483647)
# SGLang draws greedily below this temperature.
GREEDY_TEMPERATURE = tl.constexpr(1e-6)

# Flags of an emitted token; `sglang_seer.verify.walk` documents them for callers.
NEAR_TIE = tl.constexpr(1)
INSUFFICIENT = tl.constexpr(2)
BROKEN = tl.constexpr(4)
SETTLED = tl.constexpr(8)


@triton.jit
def load_logits(logits_ptr, bias_ptr, mask_ptr, columns, inside, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr):
    """float32 logits of some columns of one row, bias added, columns that the grammar forbids at minus infinity.

    The pointers stand at the row's start: logits and bias [vocab] float, mask [ceil(vocab / 32)] int32 with bit
    column % 32 of word column // 32 set where the column is allowed (xgrammar's layout).
    """
    logits = tl.load(logits_ptr + columns, mask=inside, other=float("-inf")).to(tl.float32)
    if HAS_BIAS:
        logits += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_MASK:
        words = tl.load(mask_ptr + columns // 32, mask=inside, other=0)
        logits = tl.where(((words >> (columns % 32)) & 1) != 0, logits, float("-inf"))
    return logits


@triton.jit
def exponent_scale(temperature):
    """log2(e) / temperature: what turns a difference of logits into an exponent of 2."""
    return 1.4426950408889634 / temperature


@triton.jit
def request_law(temperatures_ptr, top_ks_ptr, top_ps_ptr, min_ps_ptr, request, vocab, HAS_FILTER: tl.constexpr):
    """(temperature, greedy, filtered) of a request; a temperature that means greedy comes out as 1."""
    temperature = tl.load(temperatures_ptr + request)
    top_k = tl.load(top_ks_ptr + request)
    greedy = (top_k == 1) | (temperature < GREEDY_TEMPERATURE)
    temperature = tl.where(temperature < GREEDY_TEMPERATURE, 1.0, temperature)
    filtered = greedy & False
    if HAS_FILTER:
        limited = (tl.load(top_ps_ptr + request) < 1.0) | (tl.load(min_ps_ptr + request) > 0.0) | (top_k < vocab)
        filtered = limited & (greedy == 0)
    return temperature, greedy, filtered


@triton.jit
def sort_key(values):
    """int32 keys in the order of float32 values, zero of either sign alike."""
    bits = tl.where(values == 0.0, 0.0, values).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def key_value(keys):
    """The float32 value of a `sort_key`."""
    return (keys ^ ((keys >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def pack(keys, columns):
    """int64 in the order of sort key, the smaller column first among equals when sorted downwards."""
    return (keys.to(tl.int64) << 32) | (2147483647 - columns).to(tl.int64)


@triton.jit
def packed_column(packed):
    """The int32 column of a `pack`."""
    return 2147483647 - (packed & 0xFFFFFFFF).to(tl.int32)


@triton.jit
def fold(top, total, total_original, logits, scale, ORIGINAL: tl.constexpr):
    """Fold logits into running sums of exp(logit / temperature) and exp(logit), both relative to a running maximum.

    logits: [n, QUAD] float32, folded along the second axis into the others, which are [n]. scale: log2(e) /
    temperature. NaN and plus infinity make the sums NaN.
    """
    rise = tl.maximum(top, tl.max(logits, axis=1))
    fall = logits - rise[:, None]
    total = total * fast_exp2((top - rise) * scale) + tl.sum(fast_exp2(fall * scale), axis=1)
    if ORIGINAL:
        terms = tl.sum(fast_exp2(fall * 1.4426950408889634), axis=1)
        total_original = total_original * fast_exp2((top - rise) * 1.4426950408889634) + terms
    return rise, total, total_original


@triton.jit
def merge_sums(tops, total, scale, axis: tl.constexpr):
    """Join running sums along an axis: (maximum, sum relative to it)."""
    top = tl.max(tops, axis=axis)
    decay = fast_exp2((tops - tl.expand_dims(top, axis)) * scale)
    return top, tl.sum(total * decay, axis=axis)
