"""Which slots each token of a forward pass attends to, as a few padded blocks.

Made once per forward pass and used by every layer. Decode, prefill and tree
verification differ only in their windows, so one attention serves them all.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

# Requests share a padded block while the longest has at most this many times the keys of the shortest, and some more:
# a block costs a fixed time, padding costs its share of keys.
_LENGTH_RATIO = 1.6
_LENGTH_SLACK = 48
# Cells of padded work in a block, to bound its memory.
_MAX_BLOCK_CELLS = 1 << 22
# What gathering one key and value costs, counted in query rows.
_GATHER_ROWS = 16


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """Requests of similar length, padded to the same number of rows and of keys."""

    slots: torch.Tensor  # [reqs, max_kv] int64, 0 where padded
    unseen: torch.Tensor  # [reqs, max_q, max_kv] bool, True where a row does not look
    rows: torch.Tensor  # [sum of q_lens] int64, the pass's tokens that belong to the block
    q_lens: tuple[int, ...]

    def pad(self, tokens: torch.Tensor) -> torch.Tensor:
        """[num_tokens, heads, dim] -> [reqs, max_q, heads, dim]."""
        reqs, longest = len(self.q_lens), max(self.q_lens)
        rows = tokens.index_select(0, self.rows)
        if rows.shape[0] == reqs * longest:
            return rows.view(reqs, longest, *rows.shape[1:])
        padded = rows.new_zeros(reqs, longest, *rows.shape[1:])
        for request, part in enumerate(rows.split(self.q_lens)):
            padded[request, : part.shape[0]] = part
        return padded

    def unpad(self, padded: torch.Tensor, output: torch.Tensor) -> None:
        """[reqs, max_q, heads, dim] -> rows of [num_tokens, heads, dim], in the output's dtype."""
        if self.rows.numel() == padded.shape[0] * padded.shape[1]:
            output.index_copy_(0, self.rows, padded.flatten(0, 1).to(output.dtype))
            return
        parts = [padded[request, :q_len] for request, q_len in enumerate(self.q_lens)]
        output.index_copy_(0, self.rows, torch.cat(parts).to(output.dtype))

    def gather(self, buffer: torch.Tensor) -> torch.Tensor:
        """[num_slots, kv_heads, dim] -> [reqs, max_kv, kv_heads, dim]."""
        taken = buffer.index_select(0, self.slots.flatten())
        return taken.view(*self.slots.shape, *buffer.shape[1:])


def plan_attention(forward_batch: "ForwardBatch", req_to_token: torch.Tensor) -> list[AttentionBlock]:
    """Blocks that cover the pass's tokens.

    Args:
        req_to_token: [pool_size, max_context] slot of each position of a request.
    """
    mode = forward_batch.forward_mode
    if mode.is_idle():
        return []
    tree, requests = None, forward_batch.req_pool_indices
    if mode.is_target_verify():
        prefix_lens = forward_batch.seq_lens.long()
        width = forward_batch.spec_info.draft_token_num
        q_lens = [width] * prefix_lens.numel()
        tree = tree_mask(forward_batch.spec_info.custom_mask, prefix_lens, width)
    elif mode.is_decode():
        prefix_lens = forward_batch.seq_lens.long() - 1
        q_lens = [1] * prefix_lens.numel()
    else:
        owners, prefixes, q_lens = _cut_long_prefills(
            forward_batch.extend_prefix_lens.tolist(), forward_batch.extend_seq_lens.tolist()
        )
        prefix_lens, requests = torch.tensor(prefixes), requests[torch.tensor(owners)]
    first_rows = torch.cumsum(torch.tensor([0, *q_lens]), 0)
    blocks = []
    for members in _group(q_lens, prefix_lens.tolist()):
        index = torch.tensor(members)
        lens = tuple(q_lens[member] for member in members)
        blocks.append(
            _block(
                prefix_lens[index],
                lens,
                req_to_token[requests[index]],
                None if tree is None else tree[index],
                torch.cat([torch.arange(n) + first_rows[m] for m, n in zip(members, lens, strict=True)]),
            )
        )
    return blocks


def tree_mask(custom_mask: torch.Tensor, prefix_lens: torch.Tensor, width: int) -> torch.Tensor:
    """The tree part of a verification mask, [reqs, width, width] bool.

    Args:
        custom_mask: flat bool. Either SGLang's full mask, for each request
            [width, prefix + width] one after the other, or only the
            [reqs, width, width] trees.

    Raises:
        ValueError: the mask has neither size.
    """
    reqs = prefix_lens.numel()
    tree_cells = reqs * width * width
    if custom_mask.numel() == tree_cells:
        return custom_mask.view(reqs, width, width).bool()
    row_lens = prefix_lens + width
    full_cells = int(row_lens.sum()) * width
    if custom_mask.numel() < full_cells:
        raise ValueError(
            f"tree mask of {custom_mask.numel()} cells for {reqs} requests of width "
            f"{width}; wanted {full_cells} with prefixes or {tree_cells} without"
        )
    begins = (torch.cumsum(row_lens, 0) - row_lens) * width
    node = torch.arange(width)
    rows = begins[:, None] + row_lens[:, None] * node + prefix_lens[:, None]
    return custom_mask[rows[:, :, None] + node].bool()


def _cut_long_prefills(prefix_lens: list[int], q_lens: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Cut requests that alone are more than a block may be into pieces, as chunked prefill does.

    Returns:
        Of each piece, in the order of the tokens: its request's number, its prefix and its length.
    """
    owners, prefixes, lengths = [], [], []
    for request, (prefix_len, q_len) in enumerate(zip(prefix_lens, q_lens, strict=True)):
        piece = max(1, _MAX_BLOCK_CELLS // (prefix_len + q_len) - _GATHER_ROWS)
        for begin in range(0, q_len, piece):
            owners.append(request)
            prefixes.append(prefix_len + begin)
            lengths.append(min(piece, q_len - begin))
    return owners, prefixes, lengths


def _group(q_lens: list[int], prefix_lens: list[int]) -> list[list[int]]:
    """Request numbers, sorted by length and cut where padding or memory would cost too much."""
    groups: list[list[int]] = []
    shortest, max_q = 0, 0
    for request in sorted(range(len(q_lens)), key=lambda i: (prefix_lens[i] + q_lens[i], i)):
        kv_len = prefix_lens[request] + q_lens[request]
        wider_q = max(max_q, q_lens[request])
        fits = (
            bool(groups)
            and kv_len <= _LENGTH_RATIO * shortest + _LENGTH_SLACK
            and (len(groups[-1]) + 1) * (wider_q + _GATHER_ROWS) * kv_len <= _MAX_BLOCK_CELLS
        )
        if fits:
            groups[-1].append(request)
            max_q = wider_q
        else:
            groups.append([request])
            shortest, max_q = kv_len, q_lens[request]
    return groups


def _block(
    prefix_lens: torch.Tensor,
    q_lens: tuple[int, ...],
    slots_of_reqs: torch.Tensor,
    tree: torch.Tensor | None,
    rows: torch.Tensor,
) -> AttentionBlock:
    kv_lens = prefix_lens + torch.tensor(q_lens)
    position = torch.arange(int(kv_lens.max()))
    node = torch.arange(max(q_lens))
    if tree is None:
        last_seen = prefix_lens[:, None] + node
        unseen = position > last_seen[:, :, None]
    else:
        unseen = (position >= prefix_lens[:, None, None]).repeat(1, node.numel(), 1)
        columns = (prefix_lens[:, None] + node)[:, None, :].expand_as(tree)
        unseen.scatter_(2, columns, ~tree)
    slots = slots_of_reqs[:, : position.numel()].long()
    return AttentionBlock(
        slots=torch.where(position < kv_lens[:, None], slots, 0), unseen=unseen, rows=rows, q_lens=q_lens
    )
