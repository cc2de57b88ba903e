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

    packed: [3, bs, width] int32, the tokens, parents and depths, together because they travel together. Padding and the
    root have parent -1 and depth 0; padding carries the root's token and nothing can reach it.
    """

    packed: npt.NDArray[np.int32]

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """[bs, width]."""
        tokens: npt.NDArray[np.int32] = self.packed[0]
        return tokens

    @property
    def parents(self) -> npt.NDArray[np.int32]:
        """[bs, width]."""
        parents: npt.NDArray[np.int32] = self.packed[1]
        return parents

    @property
    def depths(self) -> npt.NDArray[np.int32]:
        """[bs, width]."""
        depths: npt.NDArray[np.int32] = self.packed[2]
        return depths

    @property
    def width(self) -> int:
        """Nodes a request, root included."""
        return int(self.packed.shape[2])

    @property
    def levels(self) -> int:
        """Nodes on the longest path of any tree, root included."""
        return int(self.depths.max(initial=0)) + 1

    @property
    def is_chain(self) -> bool:
        """Whether no tree branches, so that every accepted path is the first nodes of its tree."""
        places = np.arange(self.width)
        return bool(((self.parents == places - 1) | (self.parents < 0)).all())

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


def pad_trees(roots: npt.NDArray[np.int32], proposal: ProposalArrays, width: int) -> TreeBatch:
    """Lay proposals out as [bs, width] arrays.

    roots: [bs] int32, last known token of each request. width: common width, root included. Raises ValueError if a
    tree does not fit.
    """
    counts = np.diff(proposal.starts)
    bs = len(roots)
    if len(counts) != bs:
        raise ValueError(f"proposal: got {len(counts)} trees, wanted one for each of {bs} roots")
    needed = int(counts.max(initial=0)) + 1
    if needed > width:
        raise ValueError(f"width: got {width}, wanted at least {needed} (root included)")
    packed = np.empty((3, bs, width), dtype=np.int32)
    tokens, parents, depths = packed
    tokens[:] = roots[:, None]
    parents[:] = -1
    depths[:] = 0
    rows = np.repeat(np.arange(bs), counts)
    columns = np.arange(len(rows)) - np.repeat(proposal.starts[:-1], counts) + 1
    tokens[rows, columns] = proposal.tokens
    parents[rows, columns] = proposal.parents + 1
    depths[rows, columns] = proposal.depths
    return TreeBatch(packed)


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
