"""From proposals to the padded arrays of one verification step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class ProposalArrays(Protocol):
    """What this module reads of a proposal: flat arrays over all requests, request i at starts[i]:starts[i + 1]."""

    @property
    def tokens(self) -> npt.NDArray[np.int32]: ...
    @property
    def parents(self) -> npt.NDArray[np.int32]: ...
    @property
    def depths(self) -> npt.NDArray[np.int32]: ...
    @property
    def starts(self) -> npt.NDArray[np.int64]: ...


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """One tree a request, padded to a common width; node 0 is the root (the last known token).

    tokens, parents, depths: [bs, width] int32. Padding and the root have parent -1 and depth 0; padding carries the
    root's token and nothing can reach it.
    """

    tokens: npt.NDArray[np.int32]
    parents: npt.NDArray[np.int32]
    depths: npt.NDArray[np.int32]

    @property
    def width(self) -> int:
        """Nodes a request, root included."""
        return int(self.tokens.shape[1])

    def ancestor_mask(self) -> npt.NDArray[np.bool_]:
        """[bs, width, width]: whether node j is node i itself or one of its ancestors."""
        bs, width = self.tokens.shape
        mask = np.zeros((bs, width, width), dtype=np.bool_)
        rows = np.arange(bs)
        for node in range(width):
            if node:
                parent = self.parents[:, node]
                linked = parent >= 0
                mask[linked, node] = mask[rows[linked], parent[linked]]
            mask[:, node, node] = True
        return mask


def pad_trees(roots: npt.NDArray[np.int32], proposal: ProposalArrays, width: int | None = None) -> TreeBatch:
    """Lay proposals out as [bs, width] arrays.

    roots: [bs] int32, last known token of each request. width: common width, root included; None takes the widest
    tree of the batch. Raises ValueError if a tree does not fit.
    """
    counts = np.diff(proposal.starts)
    bs = len(roots)
    if len(counts) != bs:
        raise ValueError(f"proposal: got {len(counts)} trees, wanted one for each of {bs} roots")
    needed = int(counts.max(initial=0)) + 1
    if width is None:
        width = needed
    elif needed > width:
        raise ValueError(f"width: got {width}, wanted at least {needed} (root included)")
    tokens = np.repeat(roots.astype(np.int32)[:, None], width, axis=1)
    parents = np.full((bs, width), -1, dtype=np.int32)
    depths = np.zeros((bs, width), dtype=np.int32)
    rows = np.repeat(np.arange(bs), counts)
    columns = np.arange(len(rows)) - np.repeat(proposal.starts[:-1], counts) + 1
    tokens[rows, columns] = proposal.tokens
    parents[rows, columns] = proposal.parents + 1
    depths[rows, columns] = proposal.depths
    return TreeBatch(tokens=tokens, parents=parents, depths=depths)


def accepted_nodes(
    trees: TreeBatch, proposal: ProposalArrays, nodes: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.bool_]:
    """[num_nodes]: which nodes of the proposal were accepted.

    trees: the proposal laid out by `pad_trees`. nodes: [bs, any] rows of the flattened trees on the accepted paths,
    roots included, -1 for none.
    """
    bs, width = trees.tokens.shape
    flags = np.zeros(bs * width + 1, dtype=np.bool_)
    flags[nodes] = True  # -1 is the extra last element
    inside = np.arange(width - 1) < np.diff(proposal.starts)[:, None]
    accepted: npt.NDArray[np.bool_] = flags[:-1].reshape(bs, width)[:, 1:][inside]
    return accepted
