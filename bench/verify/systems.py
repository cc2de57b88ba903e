"""What is timed: for each system a call on one case, or the reason why it cannot be had here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from bench.verify.cases import Case
from sglang_seer.verify import Accepted, Logprobs, accept_path, draw, verify_tree
from sglang_seer.verify.logprobs import emitted_logprobs
from sglang_seer.verify.tree_mask import tree_metadata

Run = Callable[[], Any]
_PIECE = 256


class Unavailable(Exception):
    """A system that cannot run here; the message says why."""


def reference(case: Case, want: Logprobs) -> Callable[[], Accepted]:
    """The definition in plain torch."""
    return lambda: verify_tree(case.logits, case.draft_tokens, case.parents, case.positions, case.rows, want=want)


def reference_in_pieces(case: Case, want: Logprobs) -> Accepted:
    """The same, a few rows at a time: it holds several float64 copies of them."""
    bs, width = case.draft_tokens.shape
    by_row = case.rows.repeat(width)
    pieces = torch.arange(bs * width, device=case.logits.device).split(_PIECE)
    drawn = torch.cat([draw(case.logits[some], by_row.take(some), case.positions[some]) for some in pieces])
    accepted = accept_path(case.draft_tokens, case.parents, drawn.view(bs, width))
    return replace(accepted, **emitted_logprobs(case.logits, accepted.nodes, accepted.tokens, case.rows, want))


def ours(case: Case, want: Logprobs, *, exact: bool, walk: bool | None = None) -> Callable[[], Accepted]:
    """Our kernels. walk: force one of the two schedules."""
    from sglang_seer.kernels.schedule import make_schedule, multiprocessors
    from sglang_seer.kernels.verify import verify_tree_triton

    bs, width = case.draft_tokens.shape
    schedule = None
    if walk is not None:
        rows = bs if walk else bs * width
        schedule = make_schedule(rows, case.logits.shape[1], multiprocessors(case.logits.device), walk=walk)
    return lambda: verify_tree_triton(
        case.logits,
        case.draft_tokens,
        case.parents,
        case.positions,
        case.rows,
        want=want,
        exact=exact,
        levels=case.levels,
        schedule=schedule,
    )


def torch_passes(case: Case, want: Logprobs) -> Run:
    """The passes over the logits that stock verification makes in torch, without its sampling kernel and filters.

    A floor of the stock path where SGLang is not installed: probabilities, zeros of their size for the draft, and,
    with log-probabilities, the gathered rows of all accepted slots through log softmax.
    """
    bs, width = case.draft_tokens.shape
    by_row = case.rows.repeat(width).divisors[:, None]
    slots = torch.arange(bs * width, device=case.logits.device)
    tokens = case.draft_tokens.flatten().long().clamp(min=0)[:, None]

    def run() -> torch.Tensor:
        if case.rows.all_greedy:
            result = case.logits.argmax(dim=-1)
        else:
            probs = torch.softmax(case.logits / by_row, dim=-1)
            result = torch.zeros_like(probs)
        if want.tempered:
            picked = case.logits[slots]
            picked = picked if case.rows.all_greedy else picked / by_row
            result = torch.log_softmax(picked, dim=-1).clamp_(min=torch.finfo(torch.float32).min).gather(1, tokens)
        return result

    return run


def flashinfer(case: Case, _want: Logprobs) -> Run:
    """FlashInfer's sampling of every node, unseeded; no walk and no log-probabilities."""
    try:
        from flashinfer import sampling
    except ImportError as error:
        raise Unavailable(f"flashinfer cannot be imported: {error}") from error
    if case.rows.all_greedy:
        raise Unavailable("flashinfer has no greedy sampling")
    by_row = case.rows.repeat(case.draft_tokens.shape[1])
    if case.rows.any_filter:
        return lambda: sampling.top_p_sampling_from_probs(sampling.softmax(case.logits), by_row.top_ps)
    return lambda: sampling.sampling_from_logits(case.logits)


def stock(case: Case, want: Logprobs) -> Run:
    """SGLang's eagle_sample and, if wanted, its log-probabilities of the accepted tokens, on the same tensors."""
    try:
        from sglang.srt import runtime_context
        from sglang.srt.layers import dp_attention, logprob_processor
        from sglang.srt.speculative import eagle_utils
    except ImportError as error:
        raise Unavailable(f"SGLang cannot be imported: {error}") from error
    bs, width = case.draft_tokens.shape
    device = case.logits.device
    links = tree_metadata(case.parents.cpu(), torch.zeros(bs, dtype=torch.int64), with_mask=False)
    rows = case.rows
    info = SimpleNamespace(
        temperatures=rows.temperatures[:, None],
        top_ks=rows.top_ks,
        top_ps=rows.top_ps,
        min_ps=rows.min_ps,
        sampling_seed=None,
        is_all_greedy=rows.all_greedy,
        need_top_k_sampling=False,
        need_top_p_sampling=rows.any_filter,
        acc_additive_penalties=None,
        acc_scaling_penalties=None,
        logit_bias=None,
        has_watermark_candidates=False,
    )
    batch = SimpleNamespace(
        device=device,
        forward_mode=SimpleNamespace(is_idle=lambda: False),
        seq_lens=case.positions.view(bs, width)[:, 0].contiguous(),
        sampling_info=info,
        top_logprobs_nums=[0] * bs,
        token_ids_logprobs=[None] * bs,
        return_logprob=want.tempered,
    )
    tree = SimpleNamespace(
        draft_token=case.draft_tokens.flatten().long(),
        draft_token_num=width,
        max_tree_depth=case.levels,
        tree_topk=-1,
        retrieve_index=links.retrieve_index.to(device),
        retrieve_next_token=links.retrieve_next_token.to(device),
        retrieve_next_sibling=links.retrieve_next_sibling.to(device),
        draft_probs=None,
    )
    settings = SimpleNamespace(
        speculative_use_rejection_sampling=False,
        speculative_use_block_verification=False,
        speculative_accept_threshold_single=1.0,
        speculative_accept_threshold_acc=1.0,
    )
    parallel = SimpleNamespace(tp_group=SimpleNamespace(world_size=1), attn_tp_group=SimpleNamespace(world_size=1))

    def run() -> Any:
        with (
            mock.patch.object(eagle_utils, "get_spec", lambda: settings),
            mock.patch.object(runtime_context, "get_parallel", lambda: parallel),
            mock.patch.object(dp_attention, "is_dp_attention_enabled", lambda: False),
        ):
            output = SimpleNamespace(next_token_logits=case.logits)
            predict, lengths, index = eagle_utils.eagle_sample(tree, batch, output)
            if want.tempered:
                logprob_processor.compute_spec_logprobs(batch, output, predict, accept_index=index)
        return lengths

    return run
