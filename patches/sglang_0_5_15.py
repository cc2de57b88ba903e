"""SGLang 0.5.15.post1, the line that slime pins."""

from __future__ import annotations

from sglang_seer.patches.contract import Target
from sglang_seer.patches.ledger import Patch, PatchSet, Seen, on_another_line
from sglang_seer.patches.sglang_0_5_23 import PATCH_SET as NEWER

_RESULTS = "sglang.srt.managers.scheduler_components.batch_result_processor"

_SEEN: dict[str, Seen] = {
    "server_args.ServerArgs.add_cli_args": "2ce3fdd4291e",
    "server_args.ServerArgs.from_cli_args": "757c116f212a",
    "entrypoints.engine.Engine.__init__": "1e76ff7a2932",
    "managers.scheduler.Scheduler.init_schedule_policy": "785f54dea5f8",
    "managers.scheduler.Scheduler.update_running_batch": "54ba9cd73be8",
    "managers.scheduler.Scheduler.process_batch_result": "d973c537fa7f",
    "managers.schedule_batch.Req.update_finish_state": "5c62f60d59e3",
    "managers.scheduler.Scheduler.on_idle": "c4805771fab2",
    "managers.scheduler.Scheduler.flush_cache": "72d4cbb694ba",
    "managers.schedule_policy.PrefillAdder.add_one_req": "d9efff9b9ac5",
    "managers.schedule_policy.PrefillAdder._get_running_request_total_token_offset": "279844f355d9",
    "managers.scheduler.Scheduler._add_request_to_queue": "3c1f10affdd3",
    "mem_cache.common.release_kv_cache": (("req", "tree_cache", "is_insert"), "bddbc33194eb"),
    "managers.schedule_batch.Req.reset_for_retract": "ee950a1f0ef5",
    "managers.schedule_batch.ScheduleBatch.filter_batch": (
        ("self", "chunked_req_to_exclude", "keep_indices"),
        "b055c4a2bcc1",
    ),
    "managers.schedule_batch.compute_extend_logprob_start_len": "a527134a9445",
    "managers.schedule_policy.SchedulePolicy.__init__": "8149aab9c8c1",
    "managers.schedule_policy.SchedulePolicy.calc_priority": (
        ("self", "waiting_queue", "running_batch"),
        "0506b41ffa82",
    ),
    "managers.scheduler.Scheduler._get_new_batch_prefill_raw": (
        ("self", "prefill_delayer_single_pass"),
        "37c4ef90b830",
    ),
    "managers.scheduler.Scheduler._relay_forward_payload": (
        ("self", "future_indices", "batch_result"),
        "865a8abb5683",
    ),
    "managers.schedule_batch.ScheduleBatch.prepare_for_decode": "0a74847af874",
    "managers.schedule_batch.ScheduleBatch.cumulate_penalty_output_tokens": "6f8116b6d2a6",
    "managers.tp_worker.TpModelWorker.forward_batch_generation": (
        ("self", "batch", "forward_batch", "pp_proxy_tensors", "is_verify", "skip_attn_backend_init"),
        "486177df32fa",
    ),
    "sampling.sampling_batch_info.SamplingBatchInfo.apply_logits_bias": "ea377e950334",
    "sampling.sampling_batch_info.SamplingBatchInfo.from_schedule_batch": "6eef8a543aa9",
    "layers.sampler.Sampler.forward": (
        (
            "self",
            "logits_output",
            "sampling_info",
            "return_logprob",
            "top_logprobs_nums",
            "token_ids_logprobs",
            "positions",
        ),
        "f8bc44e34727",
    ),
    "layers.sampler.multinomial_with_seed": "10adf30db1ce",
    "layers.sampler.top_k_top_p_min_p_sampling_from_probs_torch": (
        ("probs", "top_ks", "top_ps", "min_ps", "need_min_p_sampling", "sampling_seed", "positions"),
        "612a12488739",
    ),
    "speculative.base_spec_worker.BaseSpecWorker": "15424ef95dc7",
    "speculative.ngram_info.NgramVerifyInput": "9a1d04c3be1d",
    "speculative.ngram_worker.NGRAMWorker.forward_batch_generation": (
        ("self", "batch", "on_publish"),
        "9e15ee73bf79",
    ),
    "speculative.spec_registry.CustomSpecAlgo": "66b99c550338",
    "speculative.spec_utils.move_accept_tokens_to_target_kvcache": "79df44e791f5",
    "managers.utils.GenerationBatchResult": "fa4441bea57c",
    "speculative.spec_utils.record_stream_for_v2_verify": "b3280e160637",
    "speculative.eagle_utils.eagle_prepare_for_decode": "a177a5bbbf09",
    "speculative.spec_info.SpeculativeAlgorithm.create_future_map": (
        ("self", "device", "req_to_token_pool", "needs_cpu_seq_lens"),
        "d7dbdb0fac6f",
    ),
    "layers.sampler.apply_custom_logit_processor": "c55f055651b7",
    "utils.async_probe.sanitize_nan_logits": "646fea732786",
    "sampling.sampling_batch_info.SamplingBatchInfo.update_regex_vocab_mask": "f20e56414b0f",
    "sampling.sampling_batch_info.SamplingBatchInfo.copy_for_forward": "e61458a4adc8",
    "managers.overlap_utils.FutureMap._resolve_spec_extras": "fac4e033157b",
    "managers.overlap_utils.FutureMap.resolve_seq_lens_cpu": (("self", "batch"), "898105d297c8"),
    "managers.overlap_utils.decide_needs_cpu_seq_lens": (("server_args", "attn_backends"), "49262914780a"),
    "managers.scheduler.Scheduler.event_loop_overlap": "87afec750e82",
    "managers.scheduler.Scheduler._forward_isolation": "5eadfc5c18d5",
    "managers.scheduler.Scheduler.pause_generation": "d9a171bab2da",
    "model_executor.runner.decode_cuda_graph_runner.DecodeCudaGraphRunner.__init__": (
        ("self", "model_runner", "attn_backend", "speculative_num_steps", "speculative_num_draft_tokens"),
        "76e722d4dda6",
    ),
    "model_executor.runner.decode_cuda_graph_runner.DecodeCudaGraphRunner.can_run_graph": "59c3b190312b",
    "model_executor.runner.decode_cuda_graph_runner.DecodeCudaGraphRunner.get_spec_info": "ccec337630c4",
    "model_executor.model_runner.ModelRunner._get_attention_backend": "4600000aa417",
    "model_executor.model_runner.ModelRunner._forward_raw": "dd2c90049432",
    "speculative.eagle_worker_v2.EAGLEWorkerV2.build_adaptive_runtime_state": "991bc478b479",
    "plugins.load_plugins": "4af6a54c7fd5",
}

# What the patches of slime 0.3.1's image change: token ids that filters kept, and log-probabilities among them.
_SLIME: dict[str, Seen] = {
    "sampling.sampling_batch_info.SamplingBatchInfo.from_schedule_batch": "8f19478041b6",
    "layers.sampler.Sampler.forward": "a865eec77556",
    "speculative.ngram_worker.NGRAMWorker.forward_batch_generation": "69d8c08202a8",
    "managers.utils.GenerationBatchResult": "32c8771da2f7",
    "managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor._apply_decode_logprobs": (
        "80c3a3948413"
    ),
    "layers.utils.logprob.compute_spec_v2_logprobs": (
        ("batch", "logits_output", "predict", "accept_index", "accept_lens", "speculative_num_steps"),
        "73b4996e0591",
    ),
}

_PATCHES, _USES = on_another_line(NEWER, _SEEN)

PATCH_SET = PatchSet(
    version="0.5.15.post1",
    module_suffix="0_5_15",
    patches=(
        *_PATCHES,
        Patch(
            Target(
                "sglang.srt.managers.schedule_policy",
                "PrefillAdder.__init__",
                (
                    "self",
                    "page_size",
                    "tree_cache",
                    "token_to_kv_pool_allocator",
                    "running_batch",
                    "new_token_ratio",
                    "rem_input_tokens",
                    "rem_chunk_tokens",
                    "num_mixed_decode_tokens",
                    "priority_scheduling_preemption_threshold",
                    "max_prefill_bs",
                    "max_running_requests",
                    "prefill_max_requests",
                    "prefill_delayer_single_pass",
                    "dllm_config",
                    "waiting_queue_len",
                ),
                "4c64ae2a4dcb",
            ),
            "assign",
            "hooks:replace_prefill_adder",
            why="SGLang reserves KV by the generation limit; here by what is known of lengths",
            until="this line is no longer supported: newer ones ask the scheduler for the class",
        ),
        Patch(
            Target(
                "sglang.srt.managers.scheduler", "Scheduler.get_internal_state", ("self", "recv_req"), "57c8cf33fc66"
            ),
            "after",
            "hooks:get_internal_state",
            why="live counters of a scheduler in /server_info",
            until="SGLang lets a plugin add to the internal state",
        ),
        Patch(
            Target("sglang.srt.server_args", "ServerArgs.check_server_args", ("self",), "0f8cf7f21c9b"),
            "before",
            "takeover:take_over_ngram",
            why="slime builds its server arguments before plugins are loaded, so they can name NGRAM, not SEER",
            until="SGLang loads plugins before it checks the names of speculative algorithms",
        ),
    ),
    uses=(
        *_USES,
        Target(
            _RESULTS,
            "SchedulerBatchResultProcessor._resolve_spec_v2_tokens",
            ("self", "result", "batch"),
            "41bf432b6ce9",
        ),
        Target(
            _RESULTS,
            "SchedulerBatchResultProcessor.process_batch_result_decode",
            ("self", "batch", "result"),
            "046769025054",
        ),
        Target(
            _RESULTS,
            "SchedulerBatchResultProcessor._apply_decode_logprobs",
            ("self", "req", "i", "batch", "next_token_id", "next_token_logprobs", "logits_output"),
            "ae49cafcc0e3",
        ),
        Target("sglang.srt.managers.schedule_batch", "Req.set_extend_range", ("self", "start", "end"), "141da1b8b90f"),
        Target("sglang.srt.managers.schedule_batch", "Req.pop_committed_kv_cache", ("self",), "6aee04108e94"),
        Target(
            "sglang.srt.mem_cache.radix_cache",
            "RadixCache.cache_finished_req",
            ("self", "req", "is_insert"),
            "15b1f386879c",
        ),
        Target(
            "sglang.srt.layers.utils.logprob",
            "compute_spec_v2_logprobs",
            ("batch", "logits_output", "predict", "accept_index", "speculative_num_steps"),
            "f4a9085b1f93",
        ),
        Target(
            "sglang.srt.speculative.triton_ops.cache_locs",
            "assign_extend_cache_locs_func",
            (
                "req_pool_indices",
                "req_to_token",
                "start_offset",
                "end_offset",
                "batch_size",
                "draft_token_num",
                "device",
            ),
            "82a5676de795",
        ),
        Target("sglang.srt.arg_groups.overrides", "resolved_view", ("server_args",), "d637939dbcbb"),
        Target("sglang.srt.server_args", "ServerArgs.use_mla_backend", ("self",), "5085595291b8"),
        Target("sglang.srt.server_args", "get_global_server_args", (), "916b9de96b7c"),
        Target("sglang.srt.arg_groups.speculative_hook", "_handle_ngram", ("server_args",), "a4859523c63c"),
        Target(
            "sglang.srt.arg_groups.speculative_hook", "handle_speculative_decoding", ("server_args",), "bad0c6de2a88"
        ),
    ),
    builds={"slime 0.3.1": _SLIME},
)
