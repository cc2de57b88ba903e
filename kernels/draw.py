"""One read of the logits: every program takes one section of one row and leaves the section's best draw and sums.

A sampled row is a race: argmax of logit / temperature + Gumbel noise. The noise runs in float32 with a bounded error
(`noise.fast_exponential_log2`); the winner is computed again in float64, and a section in which the bound leaves more
than one candidate is raced again in float64. A row with top-k, top-p or min-p is surveyed instead: its sums and the
largest logit of every 32 columns, from which `filters` finds the few that can be drawn.

Two schedules share this kernel. Split: all rows. Walk: one launch a tree level, each reading one row a request, that
of the node which the draws of the level before lead to.
Reference: `sglang_seer.verify.law`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sglang_seer.kernels.noise import FAST_OFFSET, LN2, LOG2_E, column_hash, fast_exponential_log2, gumbel, row_state
from sglang_seer.kernels.rows import (
    GROUP,
    LOWEST,
    NO_TOKEN,
    QUAD,
    exponent_scale,
    fold,
    load_logits,
    merge_sums,
    request_law,
)
from sglang_seer.kernels.walk import drawn_tokens, find_child


@triton.jit
def _store_group_maxima(maxima_ptr, logits, start, last, BLOCK: tl.constexpr):
    groups = tl.arange(0, BLOCK // GROUP)
    largest = tl.max(tl.reshape(logits, (BLOCK // GROUP, GROUP)), axis=1)
    tl.store(maxima_ptr + start // GROUP + groups, largest, mask=start + groups * GROUP < last)


@triton.jit
def _race_again(
    logits_ptr, bias_ptr, mask_ptr, first, last, temperature, state,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The race in float64: (best score, its column, best score of another column)."""
    lanes = tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), float("-inf"), tl.float64)
    second = tl.full((BLOCK,), float("-inf"), tl.float64)
    token = tl.full((BLOCK,), NO_TOKEN, tl.int32)
    for start in range(first, last, BLOCK):
        columns = start + lanes
        inside = columns < last
        logits = load_logits(logits_ptr, bias_ptr, mask_ptr, columns, inside, HAS_BIAS, HAS_MASK)
        noise = gumbel(column_hash(state, columns))
        score = tl.where(inside, tl.div_rn(logits, temperature).to(tl.float64) + noise, float("-inf"))
        better = score > best
        second = tl.maximum(second, tl.minimum(best, score))
        token = tl.where(better, columns, token)
        best = tl.where(better, score, best)
    winner_score = tl.max(best, axis=0)
    # The smallest column among equals, as argmax takes.
    winner = tl.min(tl.where(best == winner_score, token, NO_TOKEN), axis=0)
    others = tl.where(token == winner, second, best)
    return winner_score, winner, tl.max(others, axis=0)


@triton.jit
def _decide(
    logits_ptr, bias_ptr, mask_ptr, quad, others, fast_best, first, last, temperature, state, greedy, top,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, AGAIN: tl.constexpr,
):  # fmt: skip
    """From the best quad to the exact result: (float64 score, its column, score of the runner-up).

    others, fast_best: scores of the second best and the best quad, in the race's units. top: maximum logit.
    """
    columns = tl.minimum(quad, (last - 1) // QUAD) * QUAD + tl.arange(0, QUAD)
    inside = columns < last
    logits = load_logits(logits_ptr, bias_ptr, mask_ptr, columns, inside, HAS_BIAS, HAS_MASK)
    if greedy:
        score = _greedy_score(logits).to(tl.float64)
    else:
        score = tl.div_rn(logits, temperature).to(tl.float64) + gumbel(column_hash(state, columns))
    score = tl.where(inside, score, float("-inf"))
    exact = tl.max(score, axis=0)
    # The smallest column among equals, as argmax takes.
    winner = tl.min(tl.where((score == exact) & (score > float("-inf")), columns, NO_TOKEN), axis=0)
    second = tl.max(tl.where(columns == winner, float("-inf"), score), axis=0).to(tl.float32)
    runner_up = others
    if greedy == 0:
        runner_up = tl.maximum((others + FAST_OFFSET) * LN2, second)
        # Both candidates' noise is off by 2**-13 at most, logit * scale and the sums by some 2**-24 of their size.
        slack = 0.000244140625 + tl.abs(fast_best) * 9.5367431640625e-07
        off = tl.abs(exact * LOG2_E - (fast_best + FAST_OFFSET).to(tl.float64)) > slack
        # Noise at its ends comes out infinite; a section without a candidate (all forbidden) has nothing to decide.
        infinite = (tl.abs(fast_best) == float("inf")) & (top > LOWEST)
        if (others >= fast_best - slack) | off | infinite:
            exact, winner, again = _race_again(
                logits_ptr, bias_ptr, mask_ptr, first, last, temperature, state, HAS_BIAS, HAS_MASK, AGAIN
            )
            runner_up = again.to(tl.float32)
    return exact, winner, runner_up


@triton.jit
def _greedy_score(logits):
    """NaN is the largest, as for argmax."""
    return tl.where(logits != logits, float("inf"), tl.minimum(logits, 3.4028234663852886e38))


@triton.jit
def _race(
    logits_ptr, bias_ptr, mask_ptr, maxima_ptr, first, last, temperature, scale, state, greedy,
    ORIGINAL: tl.constexpr, MAXIMA: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr,
    BLOCK: tl.constexpr, AGAIN: tl.constexpr,
):  # fmt: skip
    """One section of a greedy or sampled row: (best score, its column, runner-up, maximum, both sums)."""
    lanes = tl.arange(0, BLOCK)
    quads = tl.arange(0, BLOCK // QUAD)
    # Every quad of neighbouring columns competes as one and lies in one thread: the loop exchanges nothing.
    best = tl.full((BLOCK // QUAD,), float("-inf"), tl.float32)
    second = tl.full((BLOCK // QUAD,), float("-inf"), tl.float32)
    best_quad = tl.full((BLOCK // QUAD,), NO_TOKEN, tl.int32)
    top = tl.full((BLOCK // QUAD,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK // QUAD,), tl.float32)
    total_original = tl.zeros((BLOCK // QUAD,), tl.float32)
    for start in range(first, last, BLOCK):
        columns = start + lanes
        logits = load_logits(logits_ptr, bias_ptr, mask_ptr, columns, columns < last, HAS_BIAS, HAS_MASK)
        if greedy:  # noqa: SIM108  a branch for the compiler, not a choice of two computed values
            score = _greedy_score(logits)
        else:
            score = logits * scale - fast_exponential_log2(column_hash(state, columns))
        quad_score = tl.max(tl.reshape(score, (BLOCK // QUAD, QUAD)), axis=1)
        better = quad_score > best
        second = tl.maximum(second, tl.minimum(best, quad_score))
        best_quad = tl.where(better, start // QUAD + quads, best_quad)
        best = tl.where(better, quad_score, best)
        top, total, total_original = fold(
            top, total, total_original, tl.reshape(logits, (BLOCK // QUAD, QUAD)), scale, ORIGINAL
        )
        if MAXIMA:
            _store_group_maxima(maxima_ptr, logits, start, last, BLOCK)
    top, total, total_original = _join_lanes(top, total, total_original, scale, ORIGINAL)
    fast_best = tl.max(best, axis=0)
    quad = tl.min(tl.where(best == fast_best, best_quad, NO_TOKEN), axis=0)
    others = tl.max(tl.where(best_quad == quad, second, best), axis=0)
    exact, winner, runner_up = _decide(
        logits_ptr, bias_ptr, mask_ptr, quad, others, fast_best, first, last, temperature, state, greedy, top,
        HAS_BIAS, HAS_MASK, AGAIN,
    )  # fmt: skip
    return exact, winner, runner_up, top, total, total_original


@triton.jit
def _join_lanes(tops, total, total_original, scale, ORIGINAL: tl.constexpr):
    top, total = merge_sums(tops, total, scale, 0)
    original = total
    if ORIGINAL:
        top, original = merge_sums(tops, total_original, LOG2_E, 0)
    return top, total, original


@triton.jit
def _survey(
    logits_ptr, bias_ptr, mask_ptr, maxima_ptr, first, last, scale,
    ORIGINAL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One section of a filtered row: (maximum, both sums); the groups' maxima go to memory."""
    lanes = tl.arange(0, BLOCK)
    top = tl.full((BLOCK // QUAD,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK // QUAD,), tl.float32)
    total_original = tl.zeros((BLOCK // QUAD,), tl.float32)
    for start in range(first, last, BLOCK):
        columns = start + lanes
        logits = load_logits(logits_ptr, bias_ptr, mask_ptr, columns, columns < last, HAS_BIAS, HAS_MASK)
        top, total, total_original = fold(
            top, total, total_original, tl.reshape(logits, (BLOCK // QUAD, QUAD)), scale, ORIGINAL
        )
        _store_group_maxima(maxima_ptr, logits, start, last, BLOCK)
    return _join_lanes(top, total, total_original, scale, ORIGINAL)


@triton.jit(do_not_specialize=["width", "splits", "section_blocks", "level", "fresh", "bias_repeat"])
def scan_kernel(
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
    draft_tokens_ptr,  # [bs, width] int32
    parents_ptr,  # [bs, width] int32
    path_ptr,  # [bs, width] int32, node at each level of the walk, -1 behind its end
    scores_ptr,  # [rows, splits] float64, out
    winners_ptr,  # [rows, splits] int32, out
    stats_ptr,  # [4, rows, splits] float32, out: runner-up, maximum, sum, sum without temperature
    maxima_ptr,  # [rows, groups] float32, out
    drawn_ptr,  # [rows] int32, token settled elsewhere, -1 for none
    row_flags_ptr,  # [rows] int32
    vocab,
    rows,
    width,
    splits,
    section_blocks,  # blocks of columns a program takes
    level,
    fresh,  # 1: nothing is settled yet
    WALK: tl.constexpr,
    HAS_FILTER: tl.constexpr,
    ALL_GREEDY: tl.constexpr,
    ORIGINAL: tl.constexpr,
    MAXIMA: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    WIDTH: tl.constexpr,  # powers of two, at least width and splits
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    AGAIN: tl.constexpr,
):
    """Grid (rows, splits), or (bs, splits) for one level of a walk."""
    split = tl.program_id(1)
    if WALK:
        request = tl.program_id(0)
        node = tl.full((), 0, tl.int32)
        if level > 0:
            before = tl.load(path_ptr + request * width + level - 1)
            node = before
            if before >= 0:
                one = tl.arange(0, 1)
                token, _, _, _, _ = drawn_tokens(
                    one + request * width + before, one < 1, one * 0 + request, temperatures_ptr, top_ks_ptr,
                    scores_ptr, winners_ptr, stats_ptr, drawn_ptr, row_flags_ptr, vocab, rows, splits,
                    ALL_GREEDY, SPLITS,
                )  # fmt: skip
                node = find_child(draft_tokens_ptr, parents_ptr, request, before, tl.sum(token, axis=0), width, WIDTH)
        if split == 0:
            tl.store(path_ptr + request * width + level, node)
        row = (request * width + node).to(tl.int64)
    else:
        row = tl.program_id(0).to(tl.int64)
        request = (row // width).to(tl.int32)
        node = tl.full((), 0, tl.int32)
    if node >= 0:
        if (split == 0) & (fresh == 1):
            tl.store(drawn_ptr + row, -1)
            tl.store(row_flags_ptr + row, 0)
        temperature, greedy, filtered = request_law(
            temperatures_ptr, top_ks_ptr, top_ps_ptr, min_ps_ptr, request, vocab, HAS_FILTER
        )
        if ALL_GREEDY:
            temperature = temperature * 0.0 + 1.0
        scale = exponent_scale(temperature)
        logits_ptr += row * logits_stride
        bias_ptr += (row // bias_repeat) * bias_stride
        mask_ptr += row * mask_stride
        maxima_ptr += row * tl.cdiv(vocab, GROUP)
        first = split * section_blocks * BLOCK
        last = tl.minimum(first + section_blocks * BLOCK, vocab)
        state = row_state(tl.load(seeds_ptr + request), tl.load(positions_ptr + row))
        exact = tl.full((), float("-inf"), tl.float64)
        winner = tl.full((), NO_TOKEN, tl.int32)
        runner_up = tl.full((), float("-inf"), tl.float32)
        if filtered:
            top, total, total_original = _survey(
                logits_ptr, bias_ptr, mask_ptr, maxima_ptr, first, last, scale, ORIGINAL, HAS_BIAS, HAS_MASK, BLOCK
            )
        else:
            exact, winner, runner_up, top, total, total_original = _race(
                logits_ptr, bias_ptr, mask_ptr, maxima_ptr, first, last, temperature, scale, state,
                greedy | ALL_GREEDY, ORIGINAL, MAXIMA, HAS_BIAS, HAS_MASK, BLOCK, AGAIN,
            )  # fmt: skip
        cell = row * splits + split
        plane = rows.to(tl.int64) * splits
        tl.store(scores_ptr + cell, exact)
        tl.store(winners_ptr + cell, winner)
        tl.store(stats_ptr + cell, runner_up)
        tl.store(stats_ptr + plane + cell, top)
        tl.store(stats_ptr + 2 * plane + cell, total)
        tl.store(stats_ptr + 3 * plane + cell, total_original)
