"""Top-k, top-p and min-p: an exact draw from the few tokens that can be drawn, without sorting the vocabulary.

SGLang sorts the probabilities downwards (the smaller token first among equals), keeps a rank below top-k whose mass
before it is at most top-p and whose probability is at least min-p times the largest, and keys the noise by rank. Here
the survey of a row left the largest logit of every 32 columns. All logits of at least some threshold lie in the groups
whose largest logit is; the threshold is taken so low that half the candidate set's size of groups reach it (or three
quarters of all), their columns are read, and those that reach it too are sorted. The set is sufficient if the filter
ends inside it. Otherwise (a nucleus of thousands, hundreds of equal logits) the row is flagged for the reference.
Reference: `sglang_seer.verify.law`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sglang_seer.kernels.noise import column_hash, gumbel, row_state
from sglang_seer.kernels.rows import (
    GROUP,
    INSUFFICIENT,
    LOWEST,
    NEAR_TIE,
    SETTLED,
    exponent_scale,
    key_value,
    load_logits,
    merge_sums,
    pack,
    packed_column,
    request_law,
    sort_key,
)

_LEAST_KEY = tl.constexpr(-2147483648)


@triton.jit
def _threshold(keys, most):
    """The smallest key that at most `most` keys reach."""
    low = tl.full((), _LEAST_KEY, tl.int64)
    high = tl.full((), 2147483648, tl.int64)
    wide = keys.to(tl.int64)
    for _ in range(32):
        middle = (low + high) >> 1
        few = tl.sum((wide >= middle).to(tl.int32), axis=0) <= most
        high = tl.where(few, middle, high)
        low = tl.where(few, low, middle)
    return high


@triton.jit
def _gather_candidates(
    logits_ptr, bias_ptr, mask_ptr, maxima_ptr, groups_ptr, candidates_ptr, temperature, vocab,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, GROUPS: tl.constexpr, CAPACITY: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Write sort key and column of every logit that reaches a threshold: (their number, the threshold's key).

    More than CAPACITY are counted but not written.
    """
    groups = tl.arange(0, GROUPS)
    known = groups * GROUP < vocab
    maxima = tl.load(maxima_ptr + groups, mask=known, other=float("-inf"))
    keys = tl.where(known, sort_key(tl.div_rn(maxima, temperature)), _LEAST_KEY)
    # Three quarters of all groups hold 1.8 times as many logits that reach their least maximum, fewer hold fewer.
    num_all = tl.cdiv(vocab, GROUP)
    most = tl.where(vocab <= CAPACITY, num_all, tl.minimum(CAPACITY // 2, tl.maximum(num_all * 3 // 4, 1)))
    threshold = tl.maximum(_threshold(keys, most), _LEAST_KEY + 1)
    reach = keys.to(tl.int64) >= threshold
    places = tl.cumsum(reach.to(tl.int32), axis=0) - 1
    tl.store(groups_ptr + places, groups, mask=reach)
    num_groups = tl.sum(reach.to(tl.int32), axis=0)
    # The list is read by other threads of this program than wrote it.
    tl.debug_barrier()
    count = tl.full((), 0, tl.int32)
    lanes = tl.arange(0, TILE)
    for start in range(0, num_groups, TILE // GROUP):
        place = start + lanes // GROUP
        group = tl.load(groups_ptr + place, mask=place < num_groups, other=0)
        columns = group * GROUP + lanes % GROUP
        inside = (place < num_groups) & (columns < vocab)
        logits = load_logits(logits_ptr, bias_ptr, mask_ptr, columns, inside, HAS_BIAS, HAS_MASK)
        tile_keys = sort_key(tl.div_rn(logits, temperature))
        taken = inside & (tile_keys.to(tl.int64) >= threshold)
        slots = count + tl.cumsum(taken.to(tl.int32), axis=0) - 1
        tl.store(candidates_ptr + slots, pack(tile_keys, columns), mask=taken & (slots < CAPACITY))
        count += tl.sum(taken.to(tl.int32), axis=0)
    tl.debug_barrier()
    return count, threshold.to(tl.int32)


@triton.jit(do_not_specialize=["width", "splits", "level", "bias_repeat"])
def filtered_draw_kernel(
    logits_ptr,  # [rows, vocab] float
    logits_stride,
    bias_ptr,  # [rows / bias_repeat, vocab] float, or unused
    bias_stride,
    bias_repeat,
    mask_ptr,  # [rows, ceil(vocab / 32)] int32, or unused
    mask_stride,
    temperatures_ptr,  # [bs] float32
    top_ks_ptr,  # [bs] int32
    top_ps_ptr,  # [bs] float32
    min_ps_ptr,  # [bs] float32
    seeds_ptr,  # [bs] int64
    positions_ptr,  # [rows] int64
    path_ptr,  # [bs, width] int32
    stats_ptr,  # [4, rows, splits] float32
    maxima_ptr,  # [rows, groups] float32
    groups_ptr,  # [rows, CAPACITY / 2] int32, scratch
    candidates_ptr,  # [rows, CAPACITY] int64, scratch
    drawn_ptr,  # [rows] int32, out
    row_flags_ptr,  # [rows] int32, out
    vocab,
    rows,
    width,
    splits,
    level,
    WALK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    SPLITS: tl.constexpr,
    GROUPS: tl.constexpr,  # power of two, at least the groups of a row
    CAPACITY: tl.constexpr,
    TILE: tl.constexpr,
    STABLE: tl.constexpr,  # whether the reference sorts equals by token
):
    """Grid (rows,), or (bs,) for one level of a walk: settles the token of rows with a filter."""
    if WALK:
        request = tl.program_id(0)
        node = tl.load(path_ptr + request * width + level)
        row = (request * width + tl.maximum(node, 0)).to(tl.int64)
    else:
        row = tl.program_id(0).to(tl.int64)
        request = (row // width).to(tl.int32)
        node = tl.full((), 0, tl.int32)
    temperature, _, filtered = request_law(temperatures_ptr, top_ks_ptr, top_ps_ptr, min_ps_ptr, request, vocab, True)
    unsettled = (tl.load(row_flags_ptr + row) & SETTLED) == 0
    if filtered & (node >= 0) & unsettled:
        count, threshold = _gather_candidates(
            logits_ptr + row * logits_stride, bias_ptr + (row // bias_repeat) * bias_stride,
            mask_ptr + row * mask_stride, maxima_ptr + row * tl.cdiv(vocab, GROUP),
            groups_ptr + row * (CAPACITY // 2), candidates_ptr + row * CAPACITY, temperature, vocab,
            HAS_BIAS, HAS_MASK, GROUPS, CAPACITY, TILE,
        )  # fmt: skip
        lanes = tl.arange(0, SPLITS)
        plane = rows.to(tl.int64) * splits
        cells = row * splits + lanes
        tops = tl.load(stats_ptr + plane + cells, mask=lanes < splits, other=LOWEST)
        sums = tl.load(stats_ptr + 2 * plane + cells, mask=lanes < splits, other=0.0)
        top, total = merge_sums(tops, sums, exponent_scale(temperature), 0)
        token, flags = _draw_by_rank(
            candidates_ptr + row * CAPACITY, count, threshold, tl.div_rn(top, temperature), total,
            row_state(tl.load(seeds_ptr + request), tl.load(positions_ptr + row)),
            tl.load(top_ks_ptr + request), tl.load(top_ps_ptr + request), tl.load(min_ps_ptr + request),
            vocab, STABLE, CAPACITY,
        )  # fmt: skip
        tl.store(drawn_ptr + row, token)
        tl.store(row_flags_ptr + row, flags)


@triton.jit
def _draw_by_rank(
    candidates_ptr, count, threshold, top, total, state, top_k, top_p, min_p, vocab,
    STABLE: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """(token, flags) of the race among the sorted candidates."""
    ranks = tl.arange(0, CAPACITY)
    packed = tl.load(candidates_ptr + ranks, mask=ranks < count, other=-9223372036854775808)
    packed = tl.sort(packed, descending=True)
    present = ranks < count
    values = tl.where(present, key_value((packed >> 32).to(tl.int32)), float("-inf"))
    columns = packed_column(packed)
    shifted = (values - top).to(tl.float64)
    weights = tl.where(present, tl.exp(shifted) / total.to(tl.float64), 0.0)
    before = tl.cumsum(weights, axis=0) - weights
    mass = tl.sum(weights, axis=0)
    # What SGLang's float32 sums may move: masses by some 2**-18, a probability by 2**-19 of itself.
    mass_slack = 0.0000152587890625
    low_p = min_p.to(tl.float64) * tl.max(weights, axis=0)
    ranked = present & (ranks < top_k)
    kept = ranked & (before <= top_p.to(tl.float64)) & (weights >= low_p)
    perhaps = ranked & (before <= top_p.to(tl.float64) + mass_slack) & (weights >= low_p * (1.0 - mass_slack))
    surely = ranked & (before <= top_p.to(tl.float64) - mass_slack) & (weights >= low_p * (1.0 + mass_slack))
    # Rank 0 is kept whatever the rounding.
    surely = surely | (ranks == 0)
    kept = kept | (ranks == 0)
    race = tl.where(present, shifted - tl.log(total.to(tl.float64)) + gumbel(column_hash(state, ranks)), float("-inf"))
    scores = tl.where(kept, race, float("-inf"))
    best = tl.max(scores, axis=0)
    rank = tl.min(tl.where(scores == best, ranks, CAPACITY - 1), axis=0)
    here = ranks == rank
    token = tl.sum(tl.where(here, columns, 0), axis=0)
    value = tl.sum(tl.where(here, values, 0.0), axis=0)
    rival = tl.max(tl.where(perhaps & (ranks != rank), race, float("-inf")), axis=0)
    # Logits this close may come out as one probability, or in another order.
    gap = tl.abs(values - value)
    soft = 0.000003814697265625 + (tl.abs(value) + tl.abs(top)) * 2.384185791015625e-07
    close = present & (gap < soft) & (ranks != rank)
    if STABLE:
        close = close & (gap > 0.0)
    blurred = tl.sum(close.to(tl.int32), axis=0) > 0
    whole = count == vocab
    blurred = blurred | ((value - key_value(threshold) < soft) & (whole == 0))
    unsure = tl.sum((here & (surely == 0)).to(tl.int32), axis=0) > 0
    deep = value - top < -60.0
    near = (rival >= best - 0.00006103515625) | blurred | unsure | deep

    cut = tl.exp((key_value(threshold) - top).to(tl.float64)) / total.to(tl.float64)
    ends = (count >= top_k) | (mass > top_p.to(tl.float64) + mass_slack) | (cut < low_p * (1.0 - mass_slack))
    sufficient = (count > 0) & (count <= CAPACITY) & (ends | whole)
    flags = tl.where(near, NEAR_TIE, 0) | tl.where(sufficient, 0, INSUFFICIENT)
    return tl.where(sufficient, token, 0), flags
