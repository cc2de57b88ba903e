"""Tensor-parallel agreement: one rank drafts, the others get its trees.

Drafting on every rank would need the same text and the same step times everywhere, at the same step. One broadcast of
a few kilobytes over the CPU group replaces that, and the other ranks keep no index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sglang.srt.runtime_context import get_parallel

from sglang_seer.draft.trees import TreeBatch


def drafts_here() -> bool:
    """Whether this rank drafts."""
    return bool(get_parallel().tp_rank == 0)


def share_trees(trees: TreeBatch | None, batch: int, most_nodes: int) -> TreeBatch:
    """The drafting rank's trees on every rank; the other ranks pass None.

    batch: requests, the same on every rank. most_nodes: widest tree there may be, root included.
    """
    group = get_parallel().tp_group
    if get_parallel().tp_size == 1:
        assert trees is not None
        return trees
    # The width goes first, as the other ranks do not know it; the rest is padded to the widest.
    message = np.zeros(1 + 3 * batch * most_nodes, dtype=np.int32)
    if trees is not None:
        message[0] = trees.width
        message[1 : 1 + trees.packed.size] = trees.packed.ravel()
    _broadcast(torch.from_numpy(message), group)
    width = int(message[0])
    return TreeBatch(message[1 : 1 + 3 * batch * width].reshape(3, batch, width))


def _broadcast(message: torch.Tensor, group: Any) -> None:
    torch.distributed.broadcast(message, src=group.ranks[0], group=group.cpu_group)
