"""Walk from the root of a draft tree along the tokens that were drawn (losslessness rests on this page).

At each node the next token is drawn from the target distribution, without looking at the drafts. If a child carries
that very token the walk goes on there, else it stops, and the draw is the bonus token. So the output has the law of
plain decoding, whatever was drafted.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import IntFlag

import torch

from sglang_seer.verify.inputs import check_inputs, transform_logits
from sglang_seer.verify.law import SamplingRows, draw
from sglang_seer.verify.logprobs import Logprobs, emitted_logprobs

_NO_LOGPROBS = Logprobs()


class DrawFlag(IntFlag):
    """What a kernel says about a draw; the reference says nothing.

    NEAR_TIE: float32 rounding could have turned the outcome. INSUFFICIENT: a filter did not end inside the candidate
    set. BROKEN: NaN, plus infinity, or nothing allowed: the row has no distribution. SETTLED: drawn by the reference.
    """

    NEAR_TIE = 1
    INSUFFICIENT = 2
    BROKEN = 4
    SETTLED = 8


@dataclass(frozen=True, slots=True)
class Accepted:
    """Result of a verification step over `bs` requests with trees of `width` nodes (root included).

    tokens: [bs, width] int32, the emitted tokens of each request in order, bonus last; undefined behind `lengths`.
    nodes: [bs, width] int32, flat row (request * width + node) that each emitted token was drawn from; -1 behind.
    lengths: [bs] int32, number of emitted tokens, bonus included, at least 1.
    logprobs, original_logprobs: [bs, width] float32, with and without temperature, 0 behind `lengths`; if wanted.
    top_tokens, top_logprobs: [bs, width, top] int32 and float32, largest first, -1 and 0 behind; if wanted.
    flags: [bs, width] int32 of `DrawFlag`, 0 behind; from the kernels only.
    """

    tokens: torch.Tensor
    nodes: torch.Tensor
    lengths: torch.Tensor
    logprobs: torch.Tensor | None = None
    original_logprobs: torch.Tensor | None = None
    top_tokens: torch.Tensor | None = None
    top_logprobs: torch.Tensor | None = None
    flags: torch.Tensor | None = None


def accept_path(draft_tokens: torch.Tensor, parents: torch.Tensor, drawn: torch.Tensor) -> Accepted:
    """Accept along the drawn tokens.

    draft_tokens: [bs, width] int, column 0 is the root (the last known token). parents: [bs, width] int, node index of
    the parent, which is smaller than the node's own; -1 for the root and for padding nodes, which nothing reaches.
    drawn: [bs, width] int, token drawn at each node. Siblings must carry distinct tokens.
    """
    bs, width = draft_tokens.shape
    device = draft_tokens.device
    tokens = torch.zeros((bs, width), dtype=torch.int32, device=device)
    nodes = torch.full((bs, width), -1, dtype=torch.int32, device=device)
    lengths = torch.zeros(bs, dtype=torch.int32, device=device)
    first_row = torch.arange(bs, dtype=torch.int32, device=device) * width
    node = torch.zeros(bs, dtype=torch.int64, device=device)
    walking = torch.ones(bs, dtype=torch.bool, device=device)
    for depth in range(width):
        token = drawn.gather(1, node[:, None]).view(-1)
        tokens[:, depth] = torch.where(walking, token, 0).to(torch.int32)
        nodes[:, depth] = torch.where(walking, first_row + node.to(torch.int32), -1)
        lengths += walking.to(torch.int32)
        child = (parents == node[:, None]) & (draft_tokens == token[:, None])
        found = child.any(dim=1)
        walking = walking & found
        if depth + 1 == width or not bool(walking.any()):
            break
        node = torch.where(found, child.to(torch.int8).argmax(dim=1), node)
    return Accepted(tokens=tokens, nodes=nodes, lengths=lengths)


def verify_tree(
    logits: torch.Tensor,
    draft_tokens: torch.Tensor,
    parents: torch.Tensor,
    positions: torch.Tensor,
    rows: SamplingRows,
    *,
    bias: torch.Tensor | None = None,
    grammar_mask: torch.Tensor | None = None,
    want: Logprobs = _NO_LOGPROBS,
) -> Accepted:
    """Verify one tree a request.

    logits: [bs * width, vocab] float32, bfloat16 or float16, row-major by request; never changed. draft_tokens,
    parents: [bs, width]. positions: [bs * width] int, absolute position of each node. rows: one entry a request.
    bias: [bs * width, vocab] or [bs, vocab], added in float32. grammar_mask: [bs * width, ceil(vocab / 32)] int32.
    Raises ValueError with all reasons for shapes, types, devices or strides that do not fit.
    """
    check_inputs(logits, draft_tokens, parents, positions, rows, bias=bias, grammar_mask=grammar_mask)
    bs, width = draft_tokens.shape
    logits = transform_logits(logits, bias, grammar_mask)
    drawn = draw(logits, rows.repeat(width), positions)
    accepted = accept_path(draft_tokens, parents, drawn.view(bs, width))
    if want == _NO_LOGPROBS:
        return accepted
    fields = emitted_logprobs(logits, accepted.nodes, accepted.tokens, rows, want)
    return dataclasses.replace(accepted, **fields)
