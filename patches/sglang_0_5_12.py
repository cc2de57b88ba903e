"""SGLang 0.5.12, the line that veRL 0.9.1 pins."""

from __future__ import annotations

from sglang_seer.patches.contract import Target
from sglang_seer.patches.ledger import Patch, PatchSet, Seen, on_another_line
from sglang_seer.patches.sglang_0_5_23 import PATCH_SET as NEWER

_SEEN: dict[str, Seen] = {
    "server_args.ServerArgs.add_cli_args": "1c7b94015467",
    "server_args.ServerArgs.from_cli_args": "348b48f2309c",
    "entrypoints.engine.Engine.__init__": "2b53e88f0784",
    "managers.scheduler.Scheduler.init_schedule_policy": "9628c7407371",
    "managers.scheduler.Scheduler.update_running_batch": "a4b629de7108",
    "managers.scheduler.Scheduler.process_batch_result": "e313b4ce973c",
    "managers.scheduler.Scheduler.flush_cache": "3ae776a23566",
    "managers.schedule_policy.PrefillAdder.add_one_req": "9dbc225a4b0c",
    "managers.schedule_policy.PrefillAdder._get_running_request_total_token_offset": "279844f355d9",
    "managers.scheduler.Scheduler._add_request_to_queue": "3c1f10affdd3",
    "mem_cache.common.release_kv_cache": (("req", "tree_cache", "is_insert"), "78c1af2e0d67"),
    "managers.schedule_batch.Req.reset_for_retract": "f4cbbab81031",
    "managers.schedule_batch.ScheduleBatch.filter_batch": (
        ("self", "chunked_req_to_exclude", "keep_indices", "v1_spec_info_filtered"),
        "dbea449525f3",
    ),
    "managers.schedule_policy.SchedulePolicy.__init__": "8149aab9c8c1",
    "managers.schedule_policy.SchedulePolicy.calc_priority": (
        ("self", "waiting_queue", "running_batch"),
        "75384eeccc46",
    ),
    "managers.scheduler.Scheduler._get_new_batch_prefill_raw": (
        ("self", "prefill_delayer_single_pass"),
        "bb21929a3c5e",
    ),
    "managers.schedule_batch.ScheduleBatch.prepare_for_decode": "3345cb6b8171",
    "managers.tp_worker.TpModelWorker.forward_batch_generation": (
        ("self", "model_worker_batch", "forward_batch", "pp_proxy_tensors", "is_verify", "skip_attn_backend_init"),
        "81ef4406516f",
    ),
    "sampling.sampling_batch_info.SamplingBatchInfo.apply_logits_bias": "ea377e950334",
    "sampling.sampling_batch_info.SamplingBatchInfo.from_schedule_batch": "6aa2ff1e1436",
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
        "9f1e5c305070",
    ),
    "layers.sampler.multinomial_with_seed": "691bdc4bfbcf",
    "layers.sampler.top_k_top_p_min_p_sampling_from_probs_torch": (
        ("probs", "top_ks", "top_ps", "min_ps", "need_min_p_sampling", "sampling_seed", "positions"),
        "612a12488739",
    ),
    "speculative.base_spec_worker.BaseSpecWorker": "e8319b08bee8",
    "speculative.ngram_info.NgramVerifyInput": "4064c34c964d",
    "speculative.ngram_worker.NGRAMWorker.forward_batch_generation": (("self", "batch"), "9dfb8942a001"),
    "speculative.spec_registry.CustomSpecAlgo": "a00efc3cbef7",
    "managers.utils.GenerationBatchResult": "984cda17b404",
    "layers.sampler.apply_custom_logit_processor": "c55f055651b7",
    "sampling.sampling_batch_info.SamplingBatchInfo.update_regex_vocab_mask": "f20e56414b0f",
    "sampling.sampling_batch_info.SamplingBatchInfo.copy_for_forward": "e61458a4adc8",
    "managers.scheduler.Scheduler.event_loop_overlap": "d5985ab886bc",
    "managers.scheduler.Scheduler.pause_generation": "ba61c1f56243",
    "model_executor.model_runner.ModelRunner._get_attention_backend": "4df90d42a09a",
    "model_executor.model_runner.ModelRunner._forward_raw": (
        (
            "self",
            "forward_batch",
            "skip_attn_backend_init",
            "pp_proxy_tensors",
            "reinit_attn_backend",
            "split_forward_count",
        ),
        "52984ce6e8ce",
    ),
    "speculative.eagle_worker_v2.EAGLEWorkerV2.build_adaptive_runtime_state": (
        ("self", "speculative_num_steps", "speculative_num_draft_tokens"),
        "bf4ab306e3dd",
    ),
    "plugins.load_plugins": "4af6a54c7fd5",
}

_PATCHES, _USES = on_another_line(NEWER, _SEEN)

PATCH_SET = PatchSet(
    version="0.5.12",
    module_suffix="0_5_12",
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
                "80a38414af8e",
            ),
            "assign",
            "hooks:replace_prefill_adder",
            why="SGLang reserves KV by the generation limit; here by what is known of lengths",
            until="this line is no longer supported: newer ones ask the scheduler for the class",
        ),
        Patch(
            Target(
                "sglang.srt.managers.schedule_batch",
                "Req.check_finished",
                ("self", "new_accepted_len"),
                "067b6cb81f37",
            ),
            "around",
            "hooks:update_finish_state",
            why="SGLang ends a response elsewhere when several tokens arrive at once: at the limit in place of an end "
            "of text before it, and at stop strings only at the run's end",
            until="this line is no longer supported",
        ),
        Patch(
            Target(
                "sglang.srt.managers.scheduler", "Scheduler.get_internal_state", ("self", "recv_req"), "b0def80bfddb"
            ),
            "after",
            "hooks:get_internal_state",
            why="live counters of a scheduler in /server_info",
            until="SGLang lets a plugin add to the internal state",
        ),
    ),
    uses=(
        *_USES,
        Target(
            "sglang.srt.managers.schedule_batch",
            "Req.set_extend_input_len",
            ("self", "extend_input_len"),
            "2ae1281b0e7d",
        ),
        Target("sglang.srt.managers.schedule_batch", "Req.pop_committed_kv_cache", ("self",), "6aee04108e94"),
        Target(
            "sglang.srt.mem_cache.radix_cache",
            "RadixCache.cache_finished_req",
            ("self", "req", "is_insert"),
            "a10aa4e08ec8",
        ),
        Target(
            "sglang.srt.managers.schedule_batch",
            "ScheduleBatch.get_model_worker_batch",
            ("self", "seq_lens_cpu_cache"),
            "666d3abd0034",
        ),
        Target(
            "sglang.srt.layers.utils.logprob",
            "compute_spec_v2_logprobs",
            ("batch", "logits_output", "predict", "accept_index", "speculative_num_steps"),
            "f4a9085b1f93",
        ),
        Target(
            "sglang.srt.managers.scheduler_output_processor_mixin",
            "SchedulerOutputProcessorMixin._resolve_spec_overlap_tokens",
            ("self", "result", "batch"),
            "4106424ba9b9",
        ),
        Target(
            "sglang.srt.managers.overlap_utils",
            "FutureMap.resolve_future",
            ("self", "model_worker_batch"),
            "6c1a4560b815",
        ),
        Target(
            "sglang.srt.managers.overlap_utils",
            "FutureMap.store_to_map",
            ("self", "future_indices", "batch_result"),
            "2f04a74eab27",
        ),
        Target(
            "sglang.srt.speculative.eagle_info_v2",
            "EagleDraftInputV2Mixin.prepare_for_decode",
            ("self", "batch"),
            "8a6cc6924782",
        ),
        Target(
            "sglang.srt.speculative.eagle_info_v2",
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
            "2a0dc8bd4767",
        ),
        Target("sglang.srt.speculative.eagle_info", "EagleDraftInput", None, "312c0993f09d"),
        Target("sglang.srt.managers.utils", "get_alloc_len_per_decode", ("server_args",), "da61cb03cce8"),
        Target("sglang.srt.server_args", "ServerArgs.use_mla_backend", ("self",), "5085595291b8"),
        Target("sglang.srt.server_args", "get_global_server_args", (), "bace70b1bb7e"),
    ),
)
