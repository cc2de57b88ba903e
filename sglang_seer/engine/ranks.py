"""Tensor-parallel agreement: one rank drafts, the others get its trees.

Drafting on every rank would need the same text and the same step times everywhere, at the same step. One broadcast of
a few kilobytes over the CPU group replaces that, and the other ranks keep no index and join no token bus.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sglang_seer.draft.trees import TreeBatch
from sglang_seer.engine.sharing import Lengths
from sglang_seer.patches.adapter import line


def drafts_here() -> bool:
    """Whether this rank drafts."""
    return bool(line.get_parallel().tp_rank == 0)


def share_trees(
    trees: TreeBatch | None, lengths: Lengths, batch: int, most_nodes: int, most_lengths: int
) -> tuple[TreeBatch, Lengths]:
    """The drafting rank's trees, and lengths from other engines, on every rank; the other ranks pass None and none.

    batch: requests, the same on every rank. most_nodes: widest tree there may be, root included. most_lengths: the
    same on every rank.
    """
    group = line.get_parallel().tp_group
    if line.get_parallel().tp_size == 1:
        assert trees is not None
        return trees, lengths
    # Sizes go first, as the other ranks do not know them; the rest is padded to the largest.
    message = np.zeros(2 + 4 * most_lengths + 3 * batch * most_nodes, dtype=np.int32)
    tail = message[2 + 4 * most_lengths :]
    if trees is not None:
        message[:2] = trees.width, len(lengths)
        message[2 : 2 + 4 * len(lengths)] = lengths.view(np.int32).ravel()
        tail[: trees.packed.size] = trees.packed.ravel()
    _broadcast(torch.from_numpy(message), group)
    width, count = map(int, message[:2])
    lengths = message[2 : 2 + 4 * count].copy().view(np.int64).reshape(count, 2)
    return TreeBatch(tail[: 3 * batch * width].reshape(3, batch, width)), lengths


def _broadcast(message: torch.Tensor, group: Any) -> None:
    torch.distributed.broadcast(message, src=group.ranks[0], group=group.cpu_group)
