"""What a step decided, as the next step reads it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from sglang_seer.draft.trees import TreeBatch
from sglang_seer.engine.readback import Readback

REQUESTS = [SimpleNamespace(rid="a"), SimpleNamespace(rid="b")]


def test_runs_by_request_and_rows_by_name() -> None:
    tokens = torch.tensor([[7, 8, 9], [5, 0, 0]], dtype=torch.int32)
    nodes = torch.tensor([[0, 2, 1], [3, -1, -1]], dtype=torch.int32)
    flags = torch.tensor([[1, 0, 0], [8, 0, 0]], dtype=torch.int32)
    step = Readback(REQUESTS, tokens, torch.tensor([3, 1], dtype=torch.int32), nodes, flags)
    assert step.run(REQUESTS[1]) == [5] and step.run(REQUESTS[0]) == [7, 8, 9]
    assert step.run(SimpleNamespace(rid="c")) == ()
    assert step.part("nodes").tolist() == nodes.tolist()
    assert step.part("flags").tolist() == flags.tolist()


def test_a_prefill_has_one_token_a_request_and_nothing_else() -> None:
    step = Readback(REQUESTS, torch.tensor([[4], [6]]), torch.ones(2, dtype=torch.int32))
    assert step.run(REQUESTS[1]) == [6]
    assert step.part("flags").shape == step.part("nodes").shape == (2, 0)


def test_a_batch_of_trees_knows_whether_one_branches() -> None:
    """Only then accepted tokens lie where their cache slots are not."""
    parents = np.array([[-1, 0, 1, -1], [-1, 0, -1, -1]], dtype=np.int32)
    depths = np.array([[0, 1, 2, 0], [0, 1, 0, 0]], dtype=np.int32)
    chains = TreeBatch(np.stack([np.zeros_like(parents), parents, depths]))
    assert chains.is_chain and chains.levels == 3
    parents = parents.copy()
    parents[1, 2] = 0
    assert not TreeBatch(np.stack([np.zeros_like(parents), parents, depths])).is_chain
