"""Which slots each token of a forward pass attends to, as a few padded blocks.

Made once per forward pass and used by every layer. Decode, prefill and tree
verification differ only in their windows, so one attention serves them all.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

# Requests share a padded block up to this many cells of padded work.
_MAX_BLOCK_CELLS = 1 << 22
# What gathering one key and value costs, counted in query rows.
_GATHER_ROWS = 16


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """Consecutive requests, padded to the same number of rows and of keys."""

    slots: torch.Tensor  # [reqs, max_kv] int64, 0 where padded
    bias: torch.Tensor  # [reqs, 1, max_q, max_kv], 0 where seen and -inf elsewhere
    first_row: int
    q_lens: tuple[int, ...]

    def pad(self, tokens: torch.Tensor) -> torch.Tensor:
        """[num_tokens, heads, dim] -> [reqs, max_q, heads, dim]."""
        reqs, longest = len(self.q_lens), max(self.q_lens)
        rows = tokens[self.first_row : self.first_row + sum(self.q_lens)]
        if rows.shape[0] == reqs * longest:
            return rows.view(reqs, longest, *rows.shape[1:])
        padded = rows.new_zeros(reqs, longest, *rows.shape[1:])
        for request, part in enumerate(rows.split(self.q_lens)):
            padded[request, : part.shape[0]] = part
        return padded

    def unpad(self, padded: torch.Tensor, output: torch.Tensor) -> None:
        """[reqs, max_q, heads, dim] -> rows of [num_tokens, heads, dim]."""
        rows = output[self.first_row : self.first_row + sum(self.q_lens)]
        if rows.shape[0] == padded.shape[0] * padded.shape[1]:
            rows.copy_(padded.reshape(rows.shape))
            return
        for request, part in enumerate(rows.split(self.q_lens)):
            part.copy_(padded[request, : part.shape[0]])

    def gather(self, buffer: torch.Tensor) -> torch.Tensor:
        """[num_slots, kv_heads, dim] -> [reqs, max_kv, kv_heads, dim]."""
        taken = buffer.index_select(0, self.slots.flatten())
        return taken.view(*self.slots.shape, *buffer.shape[1:])


def plan_attention(
    forward_batch: "ForwardBatch", req_to_token: torch.Tensor, dtype: torch.dtype
) -> list[AttentionBlock]:
    """Blocks that cover the pass's tokens in order.

    Args:
        req_to_token: [pool_size, max_context] slot of each position of a request.
        dtype: of the bias.
    """
    mode = forward_batch.forward_mode
    if mode.is_idle():
        return []
    tree = None
    if mode.is_target_verify():
        prefix_lens = forward_batch.seq_lens.long()
        width = forward_batch.spec_info.draft_token_num
        q_lens = [width] * prefix_lens.numel()
        tree = tree_mask(forward_batch.spec_info.custom_mask, prefix_lens, width)
    elif mode.is_decode():
        prefix_lens = forward_batch.seq_lens.long() - 1
        q_lens = [1] * prefix_lens.numel()
    else:
        prefix_lens = forward_batch.extend_prefix_lens.long()
        q_lens = forward_batch.extend_seq_lens.tolist()
    blocks, first_row = [], 0
    for begin, end in _group(q_lens, prefix_lens.tolist()):
        blocks.append(
            _block(
                prefix_lens[begin:end],
                tuple(q_lens[begin:end]),
                req_to_token[forward_batch.req_pool_indices[begin:end]],
                None if tree is None else tree[begin:end],
                first_row,
                dtype,
            )
        )
        first_row += sum(q_lens[begin:end])
    return blocks


def tree_mask(
    custom_mask: torch.Tensor, prefix_lens: torch.Tensor, width: int
) -> torch.Tensor:
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


def _group(q_lens: list[int], prefix_lens: list[int]) -> list[tuple[int, int]]:
    """Cut the requests, in order, into ranges whose padded work is bounded."""
    groups, begin, max_q, max_kv = [], 0, 0, 0
    for index, (q_len, prefix_len) in enumerate(zip(q_lens, prefix_lens)):
        wider_q, wider_kv = max(max_q, q_len), max(max_kv, prefix_len + q_len)
        cells = (index + 1 - begin) * (wider_q + _GATHER_ROWS) * wider_kv
        if index > begin and cells > _MAX_BLOCK_CELLS:
            groups.append((begin, index))
            begin, wider_q, wider_kv = index, q_len, prefix_len + q_len
        max_q, max_kv = wider_q, wider_kv
    groups.append((begin, len(q_lens)))
    return groups


def _block(
    prefix_lens: torch.Tensor,
    q_lens: tuple[int, ...],
    slots_of_reqs: torch.Tensor,
    tree: torch.Tensor | None,
    first_row: int,
    dtype: torch.dtype,
) -> AttentionBlock:
    kv_lens = prefix_lens + torch.tensor(q_lens)
    position = torch.arange(int(kv_lens.max()))
    node = torch.arange(max(q_lens))
    if tree is None:
        last_seen = prefix_lens[:, None] + node
        seen = position <= last_seen[:, :, None]
    else:
        seen = (position < prefix_lens[:, None, None]).repeat(1, node.numel(), 1)
        columns = (prefix_lens[:, None] + node)[:, None, :].expand_as(tree)
        seen.scatter_(2, columns, tree)
    slots = slots_of_reqs[:, : position.numel()].long()
    bias = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
    return AttentionBlock(
        slots=torch.where(position < kv_lens[:, None], slots, 0),
        bias=bias.unsqueeze(1),
        first_row=first_row,
        q_lens=q_lens,
    )
