"""What comes into a verification: checks of shapes, types and values, and what is added to the logits."""

from __future__ import annotations

import torch

from sglang_seer.verify.law import SamplingRows

LOGIT_TYPES = (torch.float32, torch.bfloat16, torch.float16)
INDEX_TYPES = (torch.int32, torch.int64)
MASK_BITS = 32


def shape_reasons(
    logits: torch.Tensor,
    draft_tokens: torch.Tensor,
    parents: torch.Tensor,
    positions: torch.Tensor,
    rows: SamplingRows,
    *,
    bias: torch.Tensor | None = None,
    grammar_mask: torch.Tensor | None = None,
) -> list[str]:
    """What is wrong with the shapes, types, strides and devices, one reason each. Looks at no value: never waits."""
    if logits.dim() != 2 or draft_tokens.dim() != 2 or not draft_tokens.numel():
        return [
            f"got logits of shape {tuple(logits.shape)} and draft tokens of shape {tuple(draft_tokens.shape)}, "
            "wanted [bs * width, vocab] and [bs, width]"
        ]
    bs, width = draft_tokens.shape
    num_rows, vocab = bs * width, logits.shape[1]
    if logits.shape[0] != num_rows:
        return [f"logits: got {logits.shape[0]} rows, wanted {bs} requests * {width} nodes = {num_rows}"]
    reasons = []

    def expect(name: str, seen: torch.Tensor, shape: tuple[int, ...], types: tuple[torch.dtype, ...]) -> None:
        if tuple(seen.shape) != shape:
            reasons.append(f"{name}: got shape {tuple(seen.shape)}, wanted {shape}")
        if seen.dtype not in types:
            reasons.append(f"{name}: got {seen.dtype}, wanted {' or '.join(map(str, types))}")
        if seen.device != logits.device:
            reasons.append(f"{name}: got {seen.device}, wanted {logits.device} as the logits")

    expect("logits", logits, (num_rows, vocab), LOGIT_TYPES)
    expect("draft tokens", draft_tokens, (bs, width), INDEX_TYPES)
    expect("parents", parents, (bs, width), INDEX_TYPES)
    expect("positions", positions, (num_rows,), INDEX_TYPES)
    expect("temperatures", rows.temperatures, (bs,), (torch.float32,))
    expect("top_ks", rows.top_ks, (bs,), INDEX_TYPES)
    expect("top_ps", rows.top_ps, (bs,), (torch.float32,))
    expect("min_ps", rows.min_ps, (bs,), (torch.float32,))
    expect("seeds", rows.seeds, (bs,), (torch.int64,))
    if bias is not None:
        expect("bias", bias, (bs if bias.shape[0] == bs else num_rows, vocab), LOGIT_TYPES)
    if grammar_mask is not None:
        expect("grammar mask", grammar_mask, (num_rows, -(-vocab // MASK_BITS)), (torch.int32,))
    for name, tensor in (("logits", logits), ("bias", bias), ("grammar mask", grammar_mask)):
        if tensor is not None and tensor.dim() == 2 and tensor.stride(1) != 1 and tensor.shape[1] > 1:
            reasons.append(f"{name}: got column stride {tensor.stride(1)}, wanted 1")
    return reasons


def check_inputs(
    logits: torch.Tensor,
    draft_tokens: torch.Tensor,
    parents: torch.Tensor,
    positions: torch.Tensor,
    rows: SamplingRows,
    *,
    bias: torch.Tensor | None = None,
    grammar_mask: torch.Tensor | None = None,
) -> None:
    """Raises ValueError with every reason of `shape_reasons`."""
    reasons = shape_reasons(logits, draft_tokens, parents, positions, rows, bias=bias, grammar_mask=grammar_mask)
    if reasons:
        raise ValueError("; ".join(reasons))


def value_reasons(draft_tokens: torch.Tensor, parents: torch.Tensor, rows: SamplingRows) -> list[str]:
    """What is wrong with the values; reads them, so a GPU is waited for. For tests, tools and host tensors.

    SGLang itself refuses such sampling parameters when a request comes in. A temperature below 1e-6 is greedy.
    """
    tests = {
        "temperatures: wanted finite numbers of at least 0": ~torch.isfinite(rows.temperatures)
        | (rows.temperatures < 0),
        "top_ks: wanted at least 1 (1 is greedy, the vocabulary or more is off)": rows.top_ks < 1,
        "top_ps: wanted above 0, at most 1": ~((rows.top_ps > 0) & (rows.top_ps <= 1)),
        "min_ps: wanted 0 to 1": ~((rows.min_ps >= 0) & (rows.min_ps <= 1)),
    }
    nodes = torch.arange(parents.shape[1], device=parents.device)
    tests["parents: wanted a node before the child, or -1"] = (parents >= nodes).any(dim=1) | (parents < -1).any(dim=1)
    linked = (parents[:, :, None] == parents[:, None, :]) & (parents >= 0)[:, :, None]
    same = linked & (draft_tokens[:, :, None] == draft_tokens[:, None, :])
    twins = same.sum(dim=2) > 1
    tests["draft tokens: wanted distinct tokens among siblings"] = twins.any(dim=1)
    return [
        f"{name}; got others in requests {bad.nonzero().view(-1).tolist()}" for name, bad in tests.items() if bad.any()
    ]


def transform_logits(
    logits: torch.Tensor,
    bias: torch.Tensor | None,
    grammar_mask: torch.Tensor | None,
    picked: torch.Tensor | None = None,
) -> torch.Tensor:
    """float32 rows of logits with bias added and forbidden tokens at minus infinity.

    logits: [rows, vocab]. bias: [rows, vocab] or one row a request, [bs, vocab]. grammar_mask: [rows, ceil(vocab / 32)]
    int32, bit token % 32 of word token // 32 set where the token is allowed (xgrammar's layout). picked: [n] row
    indices, all rows if None. Returns [n, vocab]; the logits themselves if nothing is to be done.
    """
    if bias is None and grammar_mask is None:
        return logits if picked is None else logits[picked]
    index = torch.arange(logits.shape[0], device=logits.device) if picked is None else picked
    values = logits[index].float()
    if bias is not None:
        values = values + bias[index // (logits.shape[0] // bias.shape[0])].float()
    if grammar_mask is not None:
        tokens = torch.arange(logits.shape[1], device=logits.device)
        allowed = (grammar_mask[index][:, tokens // MASK_BITS] >> (tokens % MASK_BITS)) & 1
        values = values.masked_fill(allowed == 0, float("-inf"))
    return values
