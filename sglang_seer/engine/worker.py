"""The speculative worker: draft trees from siblings, one target forward over all nodes, verification by sampling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sglang.kernels.ops.speculative.cache_locs import assign_extend_cache_locs_func
from sglang.srt.configs.hybrid_arch import mambaish_config
from sglang.srt.layers.logprob_processor import compute_spec_logprobs
from sglang.srt.managers.utils import GenerationBatchResult
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.runtime_context import get_parallel, get_schedule, get_spec
from sglang.srt.sampling.sampling_params import TOP_K_ALL
from sglang.srt.speculative.base_spec_worker import BaseSpecWorker
from sglang.srt.speculative.ngram_info import NgramVerifyInput
from sglang.srt.speculative.spec_utils import move_accept_tokens_to_target_kvcache, record_stream_for_v2_verify
from sglang.srt.utils.async_probe import sanitize_nan_logits

from sglang_seer.config import SeerConfig
from sglang_seer.draft import Proposal, SuffixIndex
from sglang_seer.draft.step_time import StepTimes
from sglang_seer.draft.trees import TreeBatch, accepted_nodes, pad_trees
from sglang_seer.engine import hooks
from sglang_seer.engine.algorithm import TREE_BACKENDS
from sglang_seer.engine.drafts import DraftSource, pending_tokens
from sglang_seer.engine.kernels import choose_verifier
from sglang_seer.engine.launch import config_of
from sglang_seer.engine.logits import apply_root_transforms, takes_plain_path
from sglang_seer.engine.pacing import Pacer, draft_widths
from sglang_seer.engine.ranks import drafts_here, share_trees
from sglang_seer.status import STATUS
from sglang_seer.verify import Accepted, SamplingRows


class SeerWorker(BaseSpecWorker):  # type: ignore[misc]
    """Protocol of SGLang's second-generation speculative workers; it has no draft model."""

    draft_worker = None

    def __init__(self, server_args: Any, gpu_id: int, nccl_port: int, target_worker: Any) -> None:
        super().__init__()
        self.config = config_of(server_args) or SeerConfig()
        self._target_worker = target_worker
        self.server_args = server_args
        self.model_runner = target_worker.model_runner
        self.device = self.model_runner.device
        self.enable_overlap = not get_schedule().disable_overlap_schedule
        self.speculative_num_draft_tokens: int = get_spec().speculative_num_draft_tokens
        self.states = hooks.request_states(server_args.random_seed)
        self.drafts: DraftSource | None = None
        if drafts_here():
            self.drafts = self._draft_source()
            STATUS.sources["drafts"] = self.drafts.status
        self._unlearnt: tuple[Proposal, TreeBatch, torch.Tensor] | None = None
        if mambaish_config(self.model_runner.model_config) is not None:
            raise ValueError(
                "sglang-seer refuses to start: models with a recurrent state (mamba, linear attention) are not proven "
                'with speculation; {"speculation": false} in the seer config keeps scheduling'
            )
        self._verify = choose_verifier(torch.device(self.device).type)

    def _draft_source(self) -> DraftSource:
        vocab_size = self.model_runner.model_config.vocab_size
        index = SuffixIndex(
            vocab_size=vocab_size,
            max_tokens=self.config.index_max_tokens,
            max_bytes=self.config.index_max_bytes,
            ttl_steps=self.config.index_ttl_steps,
        )
        return DraftSource(self.states, index, vocab_size=vocab_size, memory=self.config.draft_memory)

    @cached_property
    def _pacer(self) -> Pacer:
        """Made at the first decode step, when it is known whether graphs were captured."""
        profile = self.config.step_time_profile
        times = StepTimes() if profile is None else StepTimes.load(profile)
        widths = draft_widths(self.speculative_num_draft_tokens - 1)
        pacer = Pacer(times, widths, fixed_width=self._fixed_width)
        STATUS.sources["budget"] = pacer.status
        return pacer

    @property
    def _fixed_width(self) -> bool:
        """Whether every step must have the full width.

        A captured graph has one width, and some attention backends take the width from the server's arguments.
        """
        backend = self.server_args.attention_backend
        return self.model_runner.decode_cuda_graph_runner is not None or (
            torch.device(self.device).type != "cpu" and backend not in TREE_BACKENDS
        )

    def add_external_corpus(self, corpus_id: str, token_chunks: list[list[int]]) -> int:
        """SGLang's external corpora feed NGRAM; it answers the caller with this error's text."""
        raise ValueError("external corpora are a feature of NGRAM; Seer drafts from siblings")

    def remove_external_corpus(self, corpus_id: str) -> None:
        """As above."""
        raise ValueError(f"no external corpus {corpus_id!r}: Seer drafts from siblings")

    def list_external_corpora(self) -> dict[str, int]:
        """There are none."""
        return {}

    def alloc_memory_pool(self, **_keywords: Any) -> None:
        """The target's pools are the only ones."""
        self.req_to_token_pool, self.token_to_kv_pool_allocator = self._target_worker.get_memory_pool()

    def clear_cache_pool(self) -> None:
        """SGLang flushes its caches, as after a weight update: old text is no longer a draft source."""
        if self.drafts is not None:
            self.drafts.clear()

    def forward_batch_generation(
        self, batch: Any, on_publish: Any = None, pp_proxy_tensors: Any = None
    ) -> GenerationBatchResult:
        """One prefill, or one speculative decode step."""
        stream = torch.get_device_module(self.device).current_stream()
        record_stream_for_v2_verify(batch, None, stream)
        if not batch.forward_mode.is_decode():
            return self._prefill(batch, on_publish, pp_proxy_tensors)
        plain = [takes_plain_path(request) for request in batch.reqs]
        trees = share_trees(
            self._draft(batch, plain) if self.drafts is not None else None,
            len(batch.reqs),
            self.speculative_num_draft_tokens,
        )
        positions = self._set_verify_input(batch, trees)
        target = self._target_worker.forward_batch_generation(batch, pp_proxy_tensors=pp_proxy_tensors, is_verify=True)
        logits_output = target.logits_output
        logits = logits_output.next_token_logits
        sanitize_nan_logits(logits, "seer verify: target model logits")
        if any(plain) or batch.sampling_info.has_custom_logit_processor:
            apply_root_transforms(logits, batch, trees.width)
        accepted = self._agree(
            self._verify(
                logits,
                self._to_device(trees.tokens),
                self._to_device(trees.parents),
                positions,
                self._sampling_rows(batch),
            )
        )
        if self._unlearnt is not None:
            self._unlearnt = (*self._unlearnt[:2], accepted.nodes.to("cpu", non_blocking=True))
        new_seq_lens = batch.seq_lens + accepted.lengths
        move_accept_tokens_to_target_kvcache(
            batch, accepted.nodes, accepted.lengths - 1, self.token_to_kv_pool_allocator
        )
        if batch.return_logprob:
            compute_spec_logprobs(batch, logits_output, _tokens_by_row(accepted), accept_index=accepted.nodes)
        if on_publish is not None:
            on_publish(new_seq_lens)
        batch.forward_mode = ForwardMode.DECODE
        self._count(plain, trees)
        return GenerationBatchResult(
            logits_output=logits_output,
            next_token_ids=accepted.tokens.flatten(),
            can_run_cuda_graph=target.can_run_cuda_graph,
            accept_lens=accepted.lengths,
            new_seq_lens=new_seq_lens,
            next_draft_input=self._relay(accepted.tokens, accepted.lengths, new_seq_lens),
            speculative_num_draft_tokens=trees.width,
        )

    def _prefill(self, batch: Any, on_publish: Any, pp_proxy_tensors: Any) -> GenerationBatchResult:
        if self.drafts is not None:
            self._pacer.interrupt()
        target = self._target_worker.forward_batch_generation(batch, pp_proxy_tensors=pp_proxy_tensors)
        new_seq_lens = batch.seq_lens.clone()
        if on_publish is not None:
            on_publish(new_seq_lens)
        first = target.next_token_ids.view(-1, 1)
        lengths = torch.ones(len(batch.reqs), dtype=torch.int32, device=self.device)
        target.accept_lens = lengths
        target.new_seq_lens = new_seq_lens
        target.next_draft_input = self._relay(first, lengths, new_seq_lens)
        target.speculative_num_draft_tokens = self.speculative_num_draft_tokens
        return target

    def _relay(self, tokens: torch.Tensor, lengths: torch.Tensor, new_seq_lens: torch.Tensor) -> NgramVerifyInput:
        """What the next step of these requests gets; the stride must be the same in every step."""
        stride = self.speculative_num_draft_tokens
        padded = torch.zeros((tokens.shape[0], stride), dtype=torch.int32, device=self.device)
        padded[:, : tokens.shape[1]] = tokens
        return NgramVerifyInput(
            draft_token_num=stride, new_seq_lens=new_seq_lens, accept_tokens=padded.flatten(), accept_lens=lengths
        )

    def _draft(self, batch: Any, plain: Sequence[bool]) -> TreeBatch:
        assert self.drafts is not None
        requests = batch.reqs
        pending = self._pending_tokens(batch)
        self._learn()
        most = self._pacer.begin(len(requests))
        self.drafts.append(requests, pending)
        budgets = np.zeros(len(requests), dtype=np.int32)
        roots = np.zeros(len(requests), dtype=np.int32)
        for i, (request, extra) in enumerate(zip(requests, pending, strict=True)):
            roots[i] = extra[-1] if extra else request.output_ids[-1]
            if not plain[i]:
                # The bonus token takes one place of what is left.
                left = request.sampling_params.max_new_tokens - len(request.output_ids) - len(extra) - 1
                budgets[i] = min(max(left, 0), most)
        chain = get_spec().speculative_eagle_topk == 1
        proposal = self.drafts.propose(requests, budgets, self.config.draft_depth, chain=chain)
        context = int(batch.seq_lens_cpu.sum())
        proposal, width = self._pacer.choose(proposal, context, hooks.draft_priorities(requests))
        trees = pad_trees(roots, proposal, 1 + width if self._fixed_width else None)
        self._unlearnt = (proposal, trees, torch.empty(0))
        return trees

    def _learn(self) -> None:
        """Tell the index what became of the last step's drafts; the device has been waited for by now."""
        if self._unlearnt is None or self.drafts is None:
            return
        proposal, trees, nodes = self._unlearnt
        self._unlearnt = None
        self.drafts.observe(proposal, accepted_nodes(trees, proposal, nodes.numpy()))

    def _pending_tokens(self, batch: Any) -> list[Sequence[int]]:
        if not self.enable_overlap:
            return [()] * len(batch.reqs)
        lengths = batch.spec_info.accept_lens.tolist()
        runs = batch.spec_info.accept_tokens.view(-1, self.speculative_num_draft_tokens).tolist()
        return [
            pending_tokens(seq_len, len(request.origin_input_ids), len(request.output_ids), run[:length])
            for request, seq_len, run, length in zip(
                batch.reqs, batch.seq_lens_cpu.tolist(), runs, lengths, strict=True
            )
        ]

    def _set_verify_input(self, batch: Any, trees: TreeBatch) -> torch.Tensor:
        """Turn the decode batch into a verification batch; returns the position of every node, [bs * width]."""
        bs, width = trees.tokens.shape
        tokens = self._to_device(trees.tokens).flatten().to(torch.int64)
        positions = (batch.seq_lens[:, None] + self._to_device(trees.depths)).flatten()
        batch.forward_mode = ForwardMode.TARGET_VERIFY
        batch.input_ids = tokens
        batch.out_cache_loc = assign_extend_cache_locs_func(
            req_pool_indices=batch.req_pool_indices,
            req_to_token=batch.req_to_token_pool.req_to_token,
            start_offset=batch.seq_lens,
            end_offset=batch.seq_lens + width,
            batch_size=bs,
            draft_token_num=width,
            device=self.device,
        )
        batch.spec_info = NgramVerifyInput(
            draft_token=tokens,
            custom_mask=self._to_device(self._attention_mask(trees, batch)),
            positions=positions,
            draft_token_num=width,
        )
        return positions

    def _attention_mask(self, trees: TreeBatch, batch: Any) -> npt.NDArray[np.bool_]:
        ancestors = trees.ancestor_mask()
        if torch.device(self.device).type == "cpu":
            return ancestors.ravel()  # the CPU platform's attention sees the whole prefix anyway
        return full_mask(ancestors, batch.seq_lens_cpu.numpy())

    def _sampling_rows(self, batch: Any) -> SamplingRows:
        info = batch.sampling_info
        seeds = info.sampling_seed
        if seeds is None:
            own = [self.states.of(request).seed for request in batch.reqs]
            seeds = torch.tensor(own, dtype=torch.int64).to(self.device, non_blocking=True)
        return SamplingRows(
            temperatures=info.temperatures.view(-1),
            top_ks=info.top_ks,
            top_ps=info.top_ps,
            min_ps=info.min_ps,
            seeds=seeds,
            all_greedy=info.is_all_greedy,
            any_filter=info.need_top_p_sampling
            or info.need_min_p_sampling
            or any(1 < request.sampling_params.top_k < TOP_K_ALL for request in batch.reqs),
        )

    def _agree(self, accepted: Accepted) -> Accepted:
        """Rank 0's result on every tensor-parallel rank: logits may differ in the last bits between ranks."""
        if get_parallel().tp_size == 1:
            return accepted
        for tensor in (accepted.tokens, accepted.nodes, accepted.lengths):
            get_parallel().tp_group.broadcast(tensor, src=0)
        return accepted

    def _count(self, plain: Sequence[bool], trees: TreeBatch) -> None:
        drafted = int((trees.parents >= 0).sum())
        STATUS.calls["verify"] += 1
        STATUS.counters["drafted"] += drafted
        STATUS.counters["plain_path_steps"] += sum(plain)
        if drafted:
            STATUS.first("verified", "verified its first drafts: %d nodes for %d requests", drafted, len(plain))
        hooks.check_hooks_run()

    def _to_device(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def full_mask(ancestors: npt.NDArray[np.bool_], seq_lens: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """SGLang's FULL_MASK: for each request its [width, seq_len + width] rows, flattened and joined.

    ancestors: [bs, width, width]. seq_lens: [bs], tokens before the root.
    """
    width = ancestors.shape[1]
    prefixes = [np.ones((width, length), dtype=np.bool_) for length in seq_lens]
    rows = [np.concatenate(parts, axis=1).ravel() for parts in zip(prefixes, ancestors, strict=True)]
    return np.concatenate(rows)


def _tokens_by_row(accepted: Accepted) -> torch.Tensor:
    """[bs * width] token emitted at each row of the logits, 0 where none was."""
    rows = torch.zeros(accepted.nodes.numel() + 1, dtype=torch.int32, device=accepted.nodes.device)
    # Slots behind a request's length point at row -1: the extra last element takes them.
    rows[accepted.nodes.long().flatten()] = accepted.tokens.flatten()
    return rows[:-1]
