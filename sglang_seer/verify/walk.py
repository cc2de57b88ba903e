"""Walk from the root of a draft tree along the tokens that were drawn (losslessness rests on this page).

At each node the next token is drawn from the target distribution, without looking at the drafts. If a child carries
that very token the walk goes on there, else it stops, and the draw is the bonus token. So the output has the law of
plain decoding, whatever was drafted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sglang_seer.verify.law import SamplingRows, draw


@dataclass(frozen=True, slots=True)
class Accepted:
    """Result of a verification step over `bs` requests with trees of `width` nodes (root included).

    tokens: [bs, width] int32, the emitted tokens of each request in order, bonus last; undefined behind `lengths`.
    nodes: [bs, width] int32, flat row (request * width + node) that each emitted token was drawn from; -1 behind.
    lengths: [bs] int32, number of emitted tokens, bonus included, at least 1.
    """

    tokens: torch.Tensor
    nodes: torch.Tensor
    lengths: torch.Tensor


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
) -> Accepted:
    """Verify one tree a request.

    logits: [bs * width, vocab], row-major by request. positions: [bs * width] int64. rows: one entry a request.
    """
    bs, width = draft_tokens.shape
    if logits.shape[0] != bs * width:
        raise ValueError(f"logits: got {logits.shape[0]} rows, wanted {bs} requests * {width} nodes = {bs * width}")
    drawn = draw(logits, rows.repeat(width), positions)
    return accept_path(draft_tokens, parents, drawn.view(bs, width))
