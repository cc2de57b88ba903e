"""The fused verifier: one read of the logits, the draws, the walk and the log-probabilities.

Greedy and pure temperature sampling read the logits once and wait for nothing: two launches, or one a tree level and
one. Top-k, top-p and min-p read a bounded candidate set once more. Where float32 arithmetic of another order could
have drawn otherwise than SGLang (`exact`), and where the candidate set was too small, the row is drawn again by the
reference; to know that, the host waits for the flags.
Reference: `sglang_seer.verify`.
"""

from __future__ import annotations

import torch

from sglang_seer.kernels.draw import scan_kernel
from sglang_seer.kernels.filters import filtered_draw_kernel
from sglang_seer.kernels.schedule import Schedule, choose_schedule, multiprocessors
from sglang_seer.kernels.step import Needs, Scratch, Step
from sglang_seer.kernels.top_logprobs import top_logprobs_kernel
from sglang_seer.kernels.walk import finish_kernel
from sglang_seer.verify import Accepted, DrawFlag, Logprobs, SamplingRows, check_inputs, draw, transform_logits

_REFERENCE_ROWS = 64
_NO_LOGPROBS = Logprobs()


def _scan(step: Step, level: int, fresh: bool) -> None:
    scratch, schedule = step.scratch, step.schedule
    programs = step.draft_tokens.shape[0] if schedule.walk else step.num_rows
    scan_kernel[(programs, schedule.splits)](
        *step.transforms,
        *step.law,
        step.draft_tokens,
        step.parents,
        scratch.path,
        scratch.scores,
        scratch.winners,
        scratch.stats,
        scratch.maxima,
        scratch.settled[0],
        scratch.settled[1],
        step.vocab,
        step.num_rows,
        step.width,
        schedule.splits,
        schedule.section // schedule.block,
        level,
        int(fresh),
        WALK=schedule.walk,
        HAS_FILTER=step.rows.any_filter,
        ALL_GREEDY=step.rows.all_greedy,
        ORIGINAL=step.want.original,
        MAXIMA=step.want.top > 0,
        WIDTH=step.padded_width,
        SPLITS=step.padded_splits,
        BLOCK=schedule.block,
        AGAIN=schedule.again,
        num_warps=schedule.warps,
        **step.constants,
    )


def _draw_filtered(step: Step, level: int) -> None:
    scratch, schedule = step.scratch, step.schedule
    programs = step.draft_tokens.shape[0] if schedule.walk else step.num_rows
    filtered_draw_kernel[(programs,)](
        *step.transforms,
        *step.law,
        scratch.path,
        scratch.stats,
        scratch.maxima,
        scratch.groups,
        scratch.candidates,
        scratch.settled[0],
        scratch.settled[1],
        step.vocab,
        step.num_rows,
        step.width,
        schedule.splits,
        level,
        WALK=schedule.walk,
        SPLITS=step.padded_splits,
        GROUPS=step.padded_groups,
        CAPACITY=schedule.capacity,
        TILE=schedule.tile,
        STABLE=step.logits.is_cuda,
        num_warps=8,
        **step.constants,
    )


def _draw_rows(step: Step, fresh: bool) -> None:
    for level in range(step.levels if step.schedule.walk else 1):
        _scan(step, level, fresh)
        if step.rows.any_filter:
            _draw_filtered(step, level)


def _finish(step: Step, accepted: Accepted) -> None:
    scratch, want = step.scratch, step.want
    finish_kernel[(step.draft_tokens.shape[0],)](
        *step.transforms,
        step.rows.temperatures,
        step.rows.top_ks,
        step.draft_tokens,
        step.parents,
        scratch.scores,
        scratch.winners,
        scratch.stats,
        scratch.settled[0],
        scratch.settled[1],
        accepted.tokens,
        accepted.nodes,
        accepted.lengths,
        accepted.flags,
        accepted.logprobs if want.tempered else scratch.stats,
        accepted.original_logprobs if want.original else scratch.stats,
        scratch.normalizers,
        step.vocab,
        step.num_rows,
        step.width,
        step.schedule.splits,
        ALL_GREEDY=step.rows.all_greedy,
        TEMPERED=want.tempered,
        ORIGINAL=want.original,
        NORMALIZERS=0 if not want.top else 1 if want.top_tempered else 2,
        WIDTH=step.padded_width,
        SPLITS=step.padded_splits,
        num_warps=1 if step.padded_width * step.padded_splits <= 128 else 4,
        **step.constants,
    )


def _top_logprobs(step: Step, accepted: Accepted) -> None:
    bs, width = step.draft_tokens.shape
    top_logprobs_kernel[(bs, width)](
        *step.transforms,
        step.rows.temperatures,
        accepted.nodes,
        step.scratch.maxima,
        step.scratch.normalizers,
        accepted.top_tokens,
        accepted.top_logprobs,
        step.vocab,
        step.num_rows,
        width,
        step.want.top,
        UNSCALED=step.rows.all_greedy or not step.want.top_tempered,
        GROUPS=step.padded_groups,
        num_warps=8,
        **step.constants,
    )


def _unsettled(accepted: Accepted, reasons: DrawFlag) -> torch.Tensor:
    """Rows on the path to draw again; waits for the flags."""
    assert accepted.flags is not None
    open_slots = ((accepted.flags & int(reasons)) != 0) & ((accepted.flags & int(DrawFlag.SETTLED)) == 0)
    return accepted.nodes[open_slots].long()


def _settle(step: Step, picked: torch.Tensor) -> None:
    """Draw rows again by the reference, a few at a time: it holds several float64 copies of them."""
    by_row = step.rows.repeat(step.width)
    for some in picked.split(_REFERENCE_ROWS):
        logits = transform_logits(step.logits, step.bias, step.grammar_mask, some)
        step.scratch.settled[0, some] = draw(logits, by_row.take(some), step.positions[some]).to(torch.int32)
    step.scratch.settled[1, picked] = int(DrawFlag.SETTLED)


def _redraw(step: Step, accepted: Accepted, reasons: DrawFlag) -> None:
    """Settle rows of the path until none has a reason to be drawn again."""
    picked = _unsettled(accepted, reasons)
    if picked.numel() and step.schedule.walk:
        # The walk may turn to rows that nothing has read yet.
        unread = torch.ones(step.num_rows, dtype=torch.bool, device=picked.device)
        unread[accepted.nodes[accepted.nodes >= 0].long()] = False
        step.scratch.settled[0].masked_fill_(unread, -1)
        step.scratch.settled[1].masked_fill_(unread, 0)
    # Each round settles at least one more row.
    while picked.numel():
        _settle(step, picked)
        if step.schedule.walk:
            _draw_rows(step, fresh=False)
        _finish(step, accepted)
        picked = _unsettled(accepted, reasons)


def _empty_result(bs: int, width: int, want: Logprobs, device: torch.device) -> Accepted:
    def slots(dtype: torch.dtype, *more: int) -> torch.Tensor:
        return torch.empty((bs, width, *more), dtype=dtype, device=device)

    return Accepted(
        tokens=slots(torch.int32),
        nodes=slots(torch.int32),
        lengths=torch.empty(bs, dtype=torch.int32, device=device),
        logprobs=slots(torch.float32) if want.tempered else None,
        original_logprobs=slots(torch.float32) if want.original else None,
        top_tokens=slots(torch.int32, want.top) if want.top else None,
        top_logprobs=slots(torch.float32, want.top) if want.top else None,
        flags=slots(torch.int32),
    )


def verify_tree_triton(
    logits: torch.Tensor,
    draft_tokens: torch.Tensor,
    parents: torch.Tensor,
    positions: torch.Tensor,
    rows: SamplingRows,
    *,
    bias: torch.Tensor | None = None,
    grammar_mask: torch.Tensor | None = None,
    want: Logprobs = _NO_LOGPROBS,
    exact: bool = True,
    levels: int | None = None,
    schedule: Schedule | None = None,
) -> Accepted:
    """Same contract as `sglang_seer.verify.verify_tree`, token for token; log-probabilities to float32 rounding.

    exact: draw rows again whose outcome SGLang's float32 rounding could turn, some 3 in 10,000; the host waits for the
    flags. Without it such a row keeps the outcome of the more precise arithmetic, and the host waits only in batches
    with a filter. levels: nodes on the longest path of any tree, root included; the width if not given. schedule:
    instead of the one chosen by shape.
    """
    check_inputs(logits, draft_tokens, parents, positions, rows, bias=bias, grammar_mask=grammar_mask)
    bs, width = draft_tokens.shape
    vocab, device = logits.shape[1], logits.device
    if not 0 <= want.top <= vocab:
        raise ValueError(f"top log-probabilities: got {want.top}, wanted 0 to {vocab}")
    levels = width if levels is None else min(levels, width)
    if schedule is None:
        schedule = choose_schedule(bs, width, levels, vocab, logits.element_size(), multiprocessors(device))
    needs = Needs(
        schedule=schedule,
        filters=rows.any_filter,
        maxima=rows.any_filter or want.top > 0,
        normalizers=want.top > 0,
    )
    step = Step(
        logits=logits,
        draft_tokens=draft_tokens.contiguous(),
        parents=parents.contiguous(),
        positions=positions.contiguous(),
        rows=rows.contiguous(),
        bias=bias,
        grammar_mask=grammar_mask,
        want=want,
        schedule=schedule,
        levels=levels,
        scratch=Scratch.allocate(bs, width, vocab, device, needs),
    )
    accepted = _empty_result(bs, width, want, device)
    _draw_rows(step, fresh=True)
    _finish(step, accepted)
    if rows.any_filter or (exact and not rows.all_greedy):
        reasons = DrawFlag.INSUFFICIENT | (DrawFlag.NEAR_TIE | DrawFlag.BROKEN if exact else DrawFlag(0))
        _redraw(step, accepted, reasons)
    if want.top:
        _top_logprobs(step, accepted)
    return accepted
