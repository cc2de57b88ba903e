"""Runs in a process of its own: our kernels against SGLang's, which Triton's interpreter runs on the same tensors.

Exits with a traceback at the first difference, else prints how many cases were compared.
"""

from __future__ import annotations

import numpy as np
import sglang.srt.utils  # noqa: F401  activates the platform
import torch
from sglang.kernels.ops.sampling.murmur_hash import murmur_hash32_kernel
from sglang.kernels.ops.speculative import cache_locs, eagle
from sglang.kernels.ops.speculative.reconstruct_tree import reconstruct_indices_from_tree_mask_triton
from sglang.kernels.ops.speculative.spec_tree import verify_tree_greedy_triton
from sglang.srt.mem_cache import allocation
from sglang_seer_cpu import hashing, kv_ops, tree_ops

CASES = 12
# An output that nobody wrote must not look right by chance.
POISON = -77


def random_trees(random: np.random.Generator, bs: int, n: int) -> torch.Tensor:
    """[bs, n, n] bool: node j is i or an ancestor of i. Some trees are chains, some are stars."""
    masks = np.zeros((bs, n, n), dtype=bool)
    for mask in masks:
        for node in range(n):
            if node:
                mask[node] = mask[max(0, node - 1 - random.integers(0, 4))]
            mask[node, node] = True
    return torch.from_numpy(masks)


def check_trees(random: np.random.Generator) -> None:
    bs, n, depth = int(random.integers(1, 7)), int(random.integers(2, 34)), int(random.integers(2, 12))
    mask, seq_lens = random_trees(random, bs, n), torch.from_numpy(random.integers(1, 500, bs))
    links: list[list[torch.Tensor]] = []
    for rebuild in (tree_ops.reconstruct_indices_from_tree_mask, reconstruct_indices_from_tree_mask_triton):
        outputs = [torch.full((bs * n,), POISON), *(torch.full((bs, n), POISON) for _ in range(3))]
        rebuild(mask.flatten(), seq_lens, *outputs, bs, n)
        links.append(outputs)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*links, strict=True)), links
    # Few tokens, so that a good part of the drafts is accepted.
    candidates = torch.from_numpy(random.integers(0, 3, (bs, n)))
    target = torch.from_numpy(random.integers(0, 3, (bs, n)))
    walks = []
    for walk in (tree_ops.verify_tree_greedy, verify_tree_greedy_triton):
        predicts = torch.full((bs * n,), POISON, dtype=torch.int32)
        accept_index = torch.full((bs, depth), -1, dtype=torch.int32)
        count = torch.full((bs,), POISON, dtype=torch.int32)
        walk(predicts, accept_index, count, candidates, *links[0][1:], target)
        walks.append((predicts, accept_index, count))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*walks, strict=True)), walks


def check_slots(random: np.random.Generator) -> None:
    bs, width = int(random.integers(1, 9)), 64
    pool = torch.from_numpy(random.integers(0, 10_000, (16, width), dtype=np.int32))
    rows = torch.from_numpy(random.permutation(16)[:bs].copy())
    start = torch.from_numpy(random.integers(0, 20, bs))
    end = start + torch.from_numpy(random.integers(0, 40, bs))
    slots = torch.from_numpy(random.integers(0, 10_000, int((end - start).sum())))
    written = [pool.clone(), pool.clone()]
    kv_ops.assign_req_to_token_pool(rows, written[0], start, end, slots)
    allocation.assign_req_to_token_pool[(bs,)](rows, written[1], start, end, slots, width, 16)
    assert torch.equal(*written)
    read = [torch.full((slots.numel() + 3,), POISON) for _ in range(2)]
    kv_ops.assign_extend_cache_locs(rows, pool, start, end, read[0])
    cache_locs.assign_extend_cache_locs[(bs,)](rows, pool, start, end, read[1], width, 16)
    assert torch.equal(*read)


def check_accepted(random: np.random.Generator) -> None:
    bs, depth = int(random.integers(1, 9)), 8
    index = torch.arange(bs * depth, dtype=torch.int32).view(bs, depth).clone()
    lens = torch.from_numpy(random.integers(1, depth + 1, bs))
    index[torch.arange(depth) >= lens[:, None]] = -1
    slots = torch.from_numpy(random.integers(0, 10_000, bs * depth))
    packed = [torch.full((bs * depth,), POISON) for _ in range(2)]
    kv_ops.fill_accept_out_cache_loc(index, slots, packed[0])
    eagle.fill_accept_out_cache_loc[(bs * depth,)](index.flatten(), slots, packed[1], 128)
    assert torch.equal(*packed)
    bonus = [torch.full((bs,), POISON) for _ in range(2)]
    kv_ops.fill_bonus_tokens(slots, lens, bonus[0], depth)
    eagle.fill_bonus_tokens[(bs,)](slots, lens, bonus[1], depth)
    assert torch.equal(*bonus)


def check_hash(random: np.random.Generator) -> None:
    n, m = int(random.integers(1, 5)), int(random.integers(1, 1500))
    seeds = torch.from_numpy(random.integers(-(2**63), 2**63 - 1, n)).to(torch.uint64)
    positions = torch.from_numpy(random.integers(0, 2**31 - 1, n))
    columns = torch.arange(m) if random.integers(2) else torch.from_numpy(random.integers(0, 200_000, m))
    theirs = torch.zeros(n, m, dtype=torch.uint32)
    murmur_hash32_kernel[(n, -(-m // 1024))](seeds, positions, columns, theirs, n, m, BLOCK_SIZE=1024)
    assert torch.equal(hashing.murmur_hash32(seeds, positions, columns).long(), theirs.long())


if __name__ == "__main__":
    random = np.random.default_rng(0)
    checks = (check_trees, check_slots, check_accepted, check_hash)
    for _ in range(CASES):
        for check in checks:
            check(random)
    print(f"{CASES * len(checks)} cases are equal")
