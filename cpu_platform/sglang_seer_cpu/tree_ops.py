"""Draft trees on a CPU: rebuild the links, walk greedily, walk by sampling.

A tree of n nodes has node 0 as its root, the last token already decided.
``retrieve_next_token`` is the first child and ``retrieve_next_sibling`` the next
child of the same parent; both are -1 where there is none. Trees have tens of
nodes, so the walks are Python loops over lists.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


def reconstruct_indices_from_tree_mask(
    tree_mask: torch.Tensor,  # [bs * n * n] bool, [i, j]: j is i or an ancestor of i
    verified_seq_len: torch.Tensor,  # [bs] int
    positions: torch.Tensor,  # [bs * n] int64, written
    retrieve_index: torch.Tensor,  # [bs, n] int64, written
    retrieve_next_token: torch.Tensor,  # [bs, n] int64, written
    retrieve_next_sibling: torch.Tensor,  # [bs, n] int64, written
    batch_size: int,
    draft_token_num: int,
) -> None:
    """Replace ``sgl_kernel.speculative.reconstruct_indices_from_tree_mask``."""
    bs, n = batch_size, draft_token_num
    node = torch.arange(n)
    mask = tree_mask[: bs * n * n].view(bs, n, n).bool()
    ancestors = mask & (node[None, :] < node[:, None])
    depth = ancestors.sum(-1)
    parent = torch.where(ancestors, node, -1).amax(-1)
    first_child = torch.where(ancestors, node[:, None], n).amin(1)
    sibling = (parent[:, :, None] == parent[:, None, :]) & (node[:, None] > node)
    next_sibling = torch.where(sibling, node[:, None], n).amin(1)
    has_sibling = (parent >= 0) & (next_sibling < n)
    positions.view(bs, n).copy_(depth + verified_seq_len.long()[:, None])
    retrieve_index.copy_(torch.arange(bs * n).view(bs, n))
    retrieve_next_token.copy_(torch.where(first_child < n, first_child, -1))
    retrieve_next_sibling.copy_(torch.where(has_sibling, next_sibling, -1))


@dataclass(frozen=True, slots=True)
class _Tree:
    """One request's tree as lists, indexed by node."""

    tokens: list[int]
    rows: list[int]
    first_child: list[int]
    next_sibling: list[int]

    def walk(self, max_depth: int, accepts: Callable[[int, int], bool]) -> list[int]:
        """Nodes from the root down that ``accepts(parent, child)`` lets through."""
        path = [0]
        while len(path) < max_depth:
            child = self.first_child[path[-1]]
            while child >= 0 and not accepts(path[-1], child):
                child = self.next_sibling[child]
            if child < 0:
                break
            path.append(child)
        return path


def _trees(*per_request: torch.Tensor) -> list[_Tree]:
    return [_Tree(*lists) for lists in zip(*(t.tolist() for t in per_request), strict=True)]


@dataclass(frozen=True, slots=True)
class _Outputs:
    """The three tensors both verification kernels write."""

    predicts: torch.Tensor
    accept_index: torch.Tensor
    accept_token_num: torch.Tensor

    def write(self, request: int, rows: list[int], decided: list[int]) -> None:
        """``decided[k]`` follows the token of row ``rows[k]``; the last is the bonus."""
        self.predicts[rows] = torch.tensor(decided, dtype=self.predicts.dtype)
        index = torch.tensor(rows, dtype=self.accept_index.dtype)
        self.accept_index[request, : len(rows)] = index
        self.accept_token_num[request] = len(rows) - 1


def verify_tree_greedy(
    predicts: torch.Tensor,  # [bs * n] int32, written
    accept_index: torch.Tensor,  # [bs, max_depth] int32, -1 filled, written
    accept_token_num: torch.Tensor,  # [bs] int32, written: accepted drafts, no bonus
    candidates: torch.Tensor,  # [bs, n] draft tokens
    retrieve_index: torch.Tensor,  # [bs, n] node -> row of predicts
    retrieve_next_token: torch.Tensor,  # [bs, n]
    retrieve_next_sibling: torch.Tensor,  # [bs, n]
    target_predict: torch.Tensor,  # [bs, n] argmax of the target at each node
    topk: int = -1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Replace ``sglang.kernels.ops.speculative.spec_tree.verify_tree_greedy_func``."""
    outputs = _Outputs(predicts, accept_index, accept_token_num)
    trees = _trees(candidates, retrieve_index, retrieve_next_token, retrieve_next_sibling)
    for request, (tree, target) in enumerate(zip(trees, target_predict.tolist(), strict=True)):

        def equals_target(parent: int, child: int, tree: _Tree = tree, target: list[int] = target) -> bool:
            return tree.tokens[child] == target[parent]

        path = tree.walk(accept_index.shape[1], equals_target)
        rows = [tree.rows[node] for node in path]
        outputs.write(request, rows, [target[node] for node in path])
    return predicts, accept_index, accept_token_num


def tree_speculative_sampling_target_only(
    *,
    predicts: torch.Tensor,  # [bs * n] int32, written
    accept_index: torch.Tensor,  # [bs, max_depth] int32, -1 filled, written
    accept_token_num: torch.Tensor,  # [bs] int32, written
    candidates: torch.Tensor,  # [bs, n]
    retrive_index: torch.Tensor,  # [bs, n]
    retrive_next_token: torch.Tensor,  # [bs, n]
    retrive_next_sibling: torch.Tensor,  # [bs, n]
    uniform_samples: torch.Tensor,  # [bs, n] float32
    uniform_samples_for_final_sampling: torch.Tensor,  # [bs] float32
    target_probs: torch.Tensor,  # [bs, n, vocab] float32
    draft_probs: torch.Tensor,  # [bs, n, vocab] zeros, written
    threshold_single: float = 1.0,
    threshold_acc: float = 1.0,
    deterministic: bool = True,
) -> None:
    """Replace ``sglang.kernels.ops.speculative.sampling.tree_speculative_sampling_target_only``.

    One coin decides among all children of a node: they are tried in order, and
    their probabilities add up until they exceed the coin. What was rejected is
    removed from the distribution the bonus token is drawn from.
    """
    outputs = _Outputs(predicts, accept_index, accept_token_num)
    trees = _trees(candidates, retrive_index, retrive_next_token, retrive_next_sibling)
    coins, final_coins = uniform_samples, uniform_samples_for_final_sampling.tolist()
    for request, tree in enumerate(trees):
        rejection = _ChildByCoin(
            tree.tokens,
            coins[request].tolist(),
            target_probs[request],
            draft_probs[request],
            threshold_single,
            threshold_acc,
        )
        path = tree.walk(accept_index.shape[1], rejection.accepts)
        left = target_probs[request, path[-1]]
        if len(path) < accept_index.shape[1]:
            left = (left - draft_probs[request, path[-1]]).clamp_(min=0)
        cumulative = torch.cumsum(left, 0)
        coin = final_coins[request] * cumulative[-1]
        bonus = int(torch.searchsorted(cumulative, coin, right=True))
        decided = [tree.tokens[node] for node in path[1:]]
        decided.append(min(bonus, left.numel() - 1))
        outputs.write(request, [tree.rows[node] for node in path], decided)


@dataclass(slots=True)
class _ChildByCoin:
    """The acceptance rule of one request's stochastic walk."""

    tokens: list[int]
    coins: list[float]
    target_probs: torch.Tensor  # [n, vocab]
    draft_probs: torch.Tensor  # [n, vocab], gets what was rejected
    threshold_single: float
    threshold_acc: float
    _tried: dict[int, float] = field(default_factory=dict)

    def accepts(self, parent: int, child: int) -> bool:
        token = self.tokens[child]
        probability = float(self.target_probs[parent, token])
        self._tried[parent] = self._tried.get(parent, 0.0) + probability
        covered = self._tried[parent] / self.threshold_acc
        if self.coins[parent] <= covered or probability >= self.threshold_single:
            return True
        self.draft_probs[parent, token] = probability
        return False


def top_k_renorm_prob(probs: torch.Tensor, top_ks: torch.Tensor) -> torch.Tensor:
    """Replace ``flashinfer.sampling.top_k_renorm_probs``: keep k, sum to one."""
    vocab = probs.shape[-1]
    ranked = probs.sort(dim=-1, descending=True).values
    kth = (top_ks.long().clamp(min=1, max=vocab) - 1).unsqueeze(-1)
    kept = torch.where(probs >= ranked.gather(-1, kth), probs, 0.0)
    return kept / kept.sum(dim=-1, keepdim=True)


def top_p_renorm_prob(probs: torch.Tensor, top_ps: torch.Tensor) -> torch.Tensor:
    """Replace ``flashinfer.sampling.top_p_renorm_probs``: smallest set above p."""
    ranked, order = probs.sort(dim=-1, descending=True)
    before = ranked.cumsum(dim=-1) - ranked
    ranked = torch.where(before > top_ps.unsqueeze(-1), 0.0, ranked)
    ranked = ranked / ranked.sum(dim=-1, keepdim=True)
    return torch.zeros_like(probs).scatter_(-1, order, ranked)
