"""The speculative worker: draft trees from siblings, one target forward over all nodes, verification by sampling."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sglang.srt.managers.utils import GenerationBatchResult
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.sampling.sampling_params import TOP_K_ALL
from sglang.srt.speculative.base_spec_worker import BaseSpecWorker

from sglang_seer.config import SeerConfig
from sglang_seer.draft import Proposal, SuffixIndex
from sglang_seer.draft.step_time import StepTimes
from sglang_seer.draft.trees import TreeBatch, accepted_nodes, pad_trees
from sglang_seer.engine import hooks, pacing
from sglang_seer.engine.algorithm import reads_mask
from sglang_seer.engine.drafts import DraftSource, pending_tokens
from sglang_seer.engine.kernels import choose_kernels
from sglang_seer.engine.launch import config_of
from sglang_seer.engine.logits import apply_root_transforms, plain_path_reason
from sglang_seer.engine.logprobs import set_logprobs, wanted_logprobs
from sglang_seer.engine.pacing import Pacer, draft_widths
from sglang_seer.engine.ranks import drafts_here, share_trees
from sglang_seer.engine.readback import Readback
from sglang_seer.engine.sharing import MOST_LENGTHS, NO_LENGTHS, Sharing, join_bus, text_version
from sglang_seer.engine.step_input import plain_decode_input, set_verify_input
from sglang_seer.engine.width_states import WidthStates
from sglang_seer.patches.adapter import line
from sglang_seer.status import STATUS
from sglang_seer.verify import Accepted, DrawFlag, SamplingRows


class SeerWorker(BaseSpecWorker):  # type: ignore[misc]
    """Protocol of SGLang's second-generation speculative workers; it has no draft model."""

    draft_worker = None

    def __init__(self, server_args: Any, target_worker: Any, **_ranks: Any) -> None:
        super().__init__()
        self.config = config_of(server_args) or SeerConfig()
        self._target_worker = target_worker
        self.server_args = server_args
        self.model_runner = target_worker.model_runner
        self.device = self.model_runner.device
        self.enable_overlap = not line.overlap_disabled()
        self.speculative_num_draft_tokens: int = line.get_spec().speculative_num_draft_tokens
        self.states = hooks.request_states(server_args.random_seed)
        self.drafts: DraftSource | None = None
        if drafts_here():
            self.drafts = self._draft_source()
            STATUS.sources["drafts"] = self.drafts.status
        self._unlearnt: tuple[Proposal, TreeBatch, Readback | None] | None = None
        self._last_step: Readback | None = None
        self._widths: WidthStates | None = None
        if reasons := line.speculation_reasons(server_args):
            raise ValueError("sglang-seer refuses to start: " + "; ".join(reasons))
        if line.has_recurrent_state(self.model_runner):
            raise ValueError(
                "sglang-seer refuses to start: models with a recurrent state (mamba, linear attention) are not proven "
                'with speculation; {"speculation": false} in the seer config keeps scheduling'
            )
        device_type = torch.device(self.device).type
        self._on_cpu = device_type == "cpu"
        self._kernels = choose_kernels(device_type)
        self._with_mask = reads_mask(server_args)
        widths = draft_widths(self.speculative_num_draft_tokens - 1)
        profile = self.config.step_time_profile
        times = StepTimes() if profile is None else StepTimes.load(profile)
        self._pads_widths = pacing.pads_widths(device_type)
        self._pacer = Pacer(
            times, widths, padded=self._pads_widths, captured=None if line.SWAPS_WIDTHS else widths[-1:]
        )
        if drafts_here():
            STATUS.sources["budget"] = self._pacer.status

    @property
    def target_worker(self) -> Any:
        """SGLang's worker of the model itself."""
        return self._target_worker

    def _draft_source(self) -> DraftSource:
        vocab_size = self.model_runner.model_config.vocab_size
        index = SuffixIndex(
            vocab_size=vocab_size,
            max_tokens=self.config.index_max_tokens,
            max_bytes=self.config.index_max_bytes,
            ttl_steps=self.config.index_ttl_steps,
        )
        version = self._text_version()
        bus = join_bus(self.config, version, vocab_size)
        return DraftSource(
            self.states,
            index,
            vocab_size=vocab_size,
            memory=self.config.draft_memory,
            sharing=Sharing(bus, index, self.states, version) if bus is not None else None,
        )

    def _text_version(self) -> int:
        return text_version(line.weight_version(), self.model_runner.model_config.vocab_size)

    def update_weights_from_disk(self, _request: Any) -> tuple[bool, str]:
        """Older lines ask a draft worker, too, when the target has its new weights; there are no others."""
        return True, "the model's weights are updated; drafts need none"

    update_weights_from_ipc = update_weights_from_disk

    def update_weights_from_tensor(self, request: Any) -> tuple[bool, str]:
        """Older lines ask the draft worker alone."""
        answer: tuple[bool, str] = self._target_worker.update_weights_from_tensor(request)
        return answer

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

    def init_cuda_graphs(self) -> None:
        """After the target's own graphs: those of the other widths."""
        if self._pads_widths and line.SWAPS_WIDTHS:
            widths = [1 + nodes for nodes in draft_widths(self.speculative_num_draft_tokens - 1)]
            self._widths = WidthStates(self.model_runner, widths)

    def clear_cache_pool(self) -> None:
        """SGLang flushes its caches, as after a weight update: old text is no longer a draft source."""
        if self.drafts is not None:
            self.drafts.clear(self._text_version())

    def forward_batch_generation(
        self, batch: Any, on_publish: Any = None, pp_proxy_tensors: Any = None
    ) -> GenerationBatchResult:
        """One prefill, or one speculative decode step."""
        stream = torch.get_device_module(self.device).current_stream()
        line.record_stream_for_v2_verify(batch, None, stream)
        line.take_batch(self, batch)
        if not batch.forward_mode.is_decode():
            return self._prefill(batch, on_publish, pp_proxy_tensors)
        return self._decode(batch, on_publish, pp_proxy_tensors)

    def _decode(self, batch: Any, on_publish: Any, pp_proxy_tensors: Any) -> GenerationBatchResult:
        reasons = [plain_path_reason(request) for request in batch.reqs]
        plain = [reason is not None for reason in reasons]
        # What arrived until now: lengths for all ranks of this step, text for the drafts of the next one.
        shares = self.config.shares
        arrived = self.drafts.receive(self._text_version()) if shares and self.drafts is not None else NO_LENGTHS
        trees, lengths = share_trees(
            self._draft(batch, plain) if self.drafts is not None else None,
            arrived,
            len(batch.reqs),
            self.speculative_num_draft_tokens,
            MOST_LENGTHS if shares else 0,
        )
        if self.drafts is not None:
            self.drafts.absorb()
        hooks.learn_lengths(lengths)
        tokens, parents, depths = self._to_device(trees.packed)
        positions = (batch.seq_lens[:, None] + depths).flatten()
        with self._widths.use(trees.width) if self._widths is not None else nullcontext():
            target = self._forward(batch, trees, tokens, parents, positions, pp_proxy_tensors)
        logits_output = target.logits_output
        logits = logits_output.next_token_logits
        line.sanitize_nan_logits(logits, "seer verify: target model logits")
        if any(plain) or batch.sampling_info.has_custom_logit_processor:
            apply_root_transforms(logits, batch, trees.width)
        accepted = self._agree(
            self._kernels.verify(
                logits,
                tokens,
                parents,
                positions,
                self._sampling_rows(batch),
                want=wanted_logprobs(batch),
                # Only samples that can be reproduced are worth waiting for the last bit.
                exact=batch.sampling_info.sampling_seed is not None,
                levels=trees.levels,
            )
        )
        self._read_back(batch, accepted)
        new_seq_lens = batch.seq_lens + accepted.lengths
        if not trees.is_chain:
            _, allocator = self._target_worker.get_memory_pool()
            line.move_accept_tokens_to_target_kvcache(batch, accepted.nodes, accepted.lengths - 1, allocator)
        if batch.return_logprob:
            set_logprobs(batch, logits_output, accepted)
        if on_publish is not None:
            on_publish(new_seq_lens)
        batch.forward_mode = ForwardMode.DECODE
        self._count(reasons, trees)
        return line.step_result(
            logits_output=logits_output,
            next_token_ids=accepted.tokens.flatten(),
            can_run_cuda_graph=target.can_run_cuda_graph,
            accept_lens=accepted.lengths,
            new_seq_lens=new_seq_lens,
            next_draft_input=self._relay(accepted.tokens, accepted.lengths, new_seq_lens),
            speculative_num_draft_tokens=trees.width,
        )

    def _forward(
        self,
        batch: Any,
        trees: TreeBatch,
        tokens: torch.Tensor,
        parents: torch.Tensor,
        positions: torch.Tensor,
        pp_proxy_tensors: Any,
    ) -> GenerationBatchResult:
        """The target's logits at every node, [bs * width, vocab]; a lone root is plain decoding."""
        flat = tokens.flatten().to(torch.int64)
        if trees.width == 1:
            with plain_decode_input(batch, flat):
                return self._target_worker.forward_batch_generation(
                    batch, pp_proxy_tensors=pp_proxy_tensors, is_verify=True
                )
        set_verify_input(batch, flat, positions, self._attention_mask(batch, trees, parents), trees.width)
        return self._target_worker.forward_batch_generation(batch, pp_proxy_tensors=pp_proxy_tensors, is_verify=True)

    def _attention_mask(self, batch: Any, trees: TreeBatch, parents: torch.Tensor) -> torch.Tensor | None:
        if self._on_cpu:
            # The CPU platform's attention sees the whole prefix anyway.
            return torch.from_numpy(trees.ancestor_mask().ravel())
        if not self._with_mask:
            return None
        return self._kernels.tree_metadata(parents, batch.seq_lens, int(batch.seq_lens_cpu.sum())).mask

    def _prefill(self, batch: Any, on_publish: Any, pp_proxy_tensors: Any) -> GenerationBatchResult:
        if self.drafts is not None:
            self.drafts.enter(batch.reqs)
            self._pacer.interrupt()
        target = self._target_worker.forward_batch_generation(batch, pp_proxy_tensors=pp_proxy_tensors)
        new_seq_lens = batch.seq_lens.clone()
        if on_publish is not None:
            on_publish(new_seq_lens)
        first = target.next_token_ids.view(-1, 1)
        lengths = torch.ones(len(batch.reqs), dtype=torch.int32, device=self.device)
        self._last_step = Readback(batch.reqs, first, lengths) if self.enable_overlap else None
        target.accept_lens = lengths
        target.new_seq_lens = new_seq_lens
        target.next_draft_input = self._relay(first, lengths, new_seq_lens)
        target.speculative_num_draft_tokens = self.speculative_num_draft_tokens
        return target

    def _relay(self, tokens: torch.Tensor, lengths: torch.Tensor, new_seq_lens: torch.Tensor) -> Any:
        """What the next step of these requests gets; the stride must be the same in every step."""
        stride = self.speculative_num_draft_tokens
        padded = torch.zeros((tokens.shape[0], stride), dtype=torch.int32, device=self.device)
        padded[:, : tokens.shape[1]] = tokens
        return line.relay(stride=stride, tokens=padded.flatten(), lengths=lengths, new_seq_lens=new_seq_lens)

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
        chain = line.get_spec().speculative_eagle_topk == 1
        proposal = self.drafts.propose(requests, budgets, self.config.draft_depth, chain=chain)
        context = int(batch.seq_lens_cpu.sum())
        proposal, width = self._pacer.choose(proposal, context, hooks.draft_priorities(requests))
        trees = pad_trees(roots, proposal, 1 + width)
        self._unlearnt = (proposal, trees, None)
        return trees

    def _read_back(self, batch: Any, accepted: Accepted) -> None:
        """Fetch what the next step drafts behind and learns from."""
        if self._unlearnt is not None:
            self._last_step = Readback(batch.reqs, accepted.tokens, accepted.lengths, accepted.nodes, accepted.flags)
            self._unlearnt = (*self._unlearnt[:2], self._last_step)

    def _learn(self) -> None:
        """Tell the index what became of the last step's drafts."""
        if self._unlearnt is None or self.drafts is None:
            return
        proposal, trees, step = self._unlearnt
        self._unlearnt = None
        if step is None:
            return  # the step failed
        self.drafts.observe(proposal, accepted_nodes(trees, proposal, step.part("nodes")))
        flags = step.part("flags")
        for flag in DrawFlag:
            if count := int(np.count_nonzero(flags & flag)):
                STATUS.counters[f"draws_{str(flag.name).lower()}"] += count

    def _pending_tokens(self, batch: Any) -> list[Sequence[int]]:
        if not self.enable_overlap:
            return [()] * len(batch.reqs)
        step = self._last_step
        return [
            pending_tokens(
                seq_len,
                len(request.origin_input_ids),
                len(request.output_ids),
                step.run(request) if step is not None else (),
            )
            for request, seq_len in zip(batch.reqs, batch.seq_lens_cpu.tolist(), strict=True)
        ]

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
        if line.get_parallel().tp_size == 1:
            return accepted
        for tensor in (accepted.tokens, accepted.nodes, accepted.lengths):
            line.get_parallel().tp_group.broadcast(tensor, src=0)
        return accepted

    def _count(self, plain: Sequence[str | None], trees: TreeBatch) -> None:
        drafted = int((trees.parents >= 0).sum())
        STATUS.calls["verify"] += 1
        STATUS.counters["drafted"] += drafted
        for reason in filter(None, plain):
            STATUS.counters["plain_path_steps"] += 1
            STATUS.counters[f"plain_path_for_{reason}"] += 1
        if drafted:
            STATUS.first("verified", "verified its first drafts: %d nodes for %d requests", drafted, len(plain))
        hooks.check_hooks_run()

    def _to_device(self, array: npt.NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._on_cpu else tensor.pin_memory().to(self.device, non_blocking=True)
