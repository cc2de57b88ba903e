"""Batched sampling at temperature 1.0 with a KV cache, in plain transformers.

An engine-free reference for the evaluation and the tests. Finished rows leave the batch, so one very long
response does not make all others pay for it.
"""

from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedTokenizerBase, Qwen3ForCausalLM

# Rows are dropped only when that many steps have passed, since copying the cache is not free.
COMPACT_EVERY_STEPS = 32


@dataclass(frozen=True, slots=True)
class Response:
    """`token_ids` hold the end token where there is one; `finished` is False for a response cut at the limit."""

    token_ids: list[int]
    text: str
    finished: bool


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


@torch.inference_mode()
def sample(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    *,
    seed: int,
    max_new_tokens: int = 2048,
) -> list[Response]:
    """One response a prompt, drawn from the full distribution. Repeat a prompt to get siblings."""
    if not prompts:
        raise ValueError("prompts: saw an empty list, wanted at least one prompt")
    generator = torch.Generator().manual_seed(seed)
    encoded = [prompt_ids(tokenizer, p) for p in prompts]
    width = max(map(len, encoded))
    pads = [width - len(ids) for ids in encoded]
    # [rows, width] int64, padded on the left so that all rows decode at the same column.
    tokens = torch.tensor([[tokenizer.pad_token_id] * pad + ids for pad, ids in zip(pads, encoded, strict=True)])
    mask = (torch.arange(width) >= torch.tensor(pads)[:, None]).long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    rows = torch.arange(len(prompts))
    done = torch.zeros(len(prompts), dtype=torch.bool)
    drawn: list[list[int]] = [[] for _ in prompts]
    cache = DynamicCache()
    for step in range(1, max_new_tokens + 1):
        logits = model(input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache).logits
        tokens = torch.multinomial(logits[:, -1].softmax(dim=-1), 1, generator=generator)
        for row, token, over in zip(rows.tolist(), tokens[:, 0].tolist(), done.tolist(), strict=True):
            if not over:
                drawn[row].append(token)
        done = done | (tokens[:, 0] == tokenizer.eos_token_id)
        if done.all():
            break
        mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        positions = positions[:, -1:] + 1
        if step % COMPACT_EVERY_STEPS == 0 and done.any():
            keep = (~done).nonzero()[:, 0]
            cache.batch_select_indices(keep)
            rows, tokens, mask, positions, done = (t[keep] for t in (rows, tokens, mask, positions, done))
    return [
        Response(ids, str(tokenizer.decode(ids, skip_special_tokens=True)), ids[-1] == tokenizer.eos_token_id)
        for ids in drawn
    ]
