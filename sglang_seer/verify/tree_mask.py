"""What attention and SGLang's tree walk need of a batch of trees, in plain torch from the definition."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

MOST_NODES = 64


@dataclass(frozen=True, slots=True)
class TreeMetadata:
    """Trees of `width` nodes for `bs` requests; node 0 is the root, at position seq_len.

    mask: SGLang's FULL_MASK, flat bool: for each request its [width, seq_len + width] rows, joined; None for chains,
    whose causal mask attention knows. bits: [bs, width] int64, bit j of node i set if j is i or an ancestor of i.
    positions: [bs * width] int64. retrieve_index, retrieve_next_token (first child), retrieve_next_sibling:
    [bs, width] int64 as SGLang's verification takes them, -1 for none. A padding node (parent -1) sees the prefix and
    itself and stands at the root's position.
    """

    mask: torch.Tensor | None
    bits: torch.Tensor
    positions: torch.Tensor
    retrieve_index: torch.Tensor
    retrieve_next_token: torch.Tensor
    retrieve_next_sibling: torch.Tensor


def check_trees(parents: torch.Tensor, seq_lens: torch.Tensor) -> None:
    """Raises ValueError with all reasons for shapes, types or devices that do not fit; looks at no value."""
    reasons = []
    if parents.dim() != 2 or parents.dtype != torch.int32:
        reasons.append(f"parents: got {parents.dtype} of shape {tuple(parents.shape)}, wanted [bs, width] int32")
    elif not 1 <= parents.shape[1] <= MOST_NODES:
        reasons.append(f"parents: got {parents.shape[1]} nodes a tree, wanted 1 to {MOST_NODES}")
    if tuple(seq_lens.shape) != (parents.shape[0],) or seq_lens.dtype not in (torch.int32, torch.int64):
        reasons.append(
            f"seq_lens: got {seq_lens.dtype} of shape {tuple(seq_lens.shape)}, wanted [{parents.shape[0]}] integers"
        )
    if parents.device != seq_lens.device:
        reasons.append(f"seq_lens: got {seq_lens.device}, wanted {parents.device} as the parents")
    if reasons:
        raise ValueError("; ".join(reasons))


def is_chain(parents: torch.Tensor) -> bool:
    """Whether every tree is a chain behind its root, padding last; on a GPU this waits.

    parents: [bs, width] int.
    """
    nodes = torch.arange(parents.shape[1], device=parents.device)
    linked = parents == nodes - 1
    linked[:, 0] = True
    # Behind the first node that is padding, only padding.
    return bool((linked.int().cumprod(dim=1).bool() | (parents == -1)).all())


def tree_metadata(parents: torch.Tensor, seq_lens: torch.Tensor, *, with_mask: bool) -> TreeMetadata:
    """Build it node by node.

    parents: [bs, width] int32, the parent of a node comes before it; -1 for the root and padding. seq_lens: [bs],
    tokens before the root.
    """
    check_trees(parents, seq_lens)
    bs, width = parents.shape
    sees = torch.zeros((bs, width, width), dtype=torch.bool)
    next_token = torch.full((bs, width), -1)
    next_sibling = torch.full((bs, width), -1)
    for b, tree in enumerate(parents.tolist()):
        for node, parent in enumerate(tree):
            if parent >= 0:
                sees[b, node] = sees[b, parent]
            sees[b, node, node] = True
            children = [i for i, other in enumerate(tree) if other == node]
            for child, later in pairwise(children):
                next_sibling[b, child] = later
            if children:
                next_token[b, node] = children[0]
    depths = sees.sum(dim=2) - 1
    prefixes = [torch.ones((width, length), dtype=torch.bool) for length in seq_lens.tolist()]
    rows = [torch.cat([prefix, tree], dim=1).flatten() for prefix, tree in zip(prefixes, sees, strict=True)]
    device = parents.device
    return TreeMetadata(
        mask=torch.cat(rows).to(device) if with_mask else None,
        bits=(sees.long() << torch.arange(width)).sum(dim=2).to(device),
        positions=(seq_lens.cpu()[:, None] + depths).flatten().long().to(device),
        retrieve_index=torch.arange(bs * width).view(bs, width).to(device),
        retrieve_next_token=next_token.to(device),
        retrieve_next_sibling=next_sibling.to(device),
    )
