"""SGLang 0.5.23."""

from __future__ import annotations

from sglang_seer.patches.contract import Target
from sglang_seer.patches.ledger import Patch, PatchSet

_SCHEDULER = "sglang.srt.managers.scheduler"
_SERVER_ARGS = "sglang.srt.server_args"
_POLICY = "sglang.srt.managers.schedule_policy"
_MODEL_RUNNER = "sglang.srt.model_executor.model_runner"
_GRAPHS = "sglang.srt.model_executor.runner.decode_cuda_graph_runner"
_GRAPH_PARAMETERS = (
    "self",
    "model_runner",
    "attn_backend",
    "speculative_num_steps",
    "speculative_num_draft_tokens",
    "record_nolora_graph",
)

PATCH_SET = PatchSet(
    version="0.5.23",
    patches=(
        Patch(
            Target(_SERVER_ARGS, "ServerArgs.add_cli_args", ("parser",), "987f07173651"),
            "after",
            "launch:add_cli_args",
            why="--scheduler-policy seer, --schedule-policy seer and --seer-config are no options of SGLang",
            until="SGLang lets a plugin register a schedule policy and options",
        ),
        Patch(
            Target(_SERVER_ARGS, "ServerArgs.from_cli_args", ("cls", "args"), "bc5b98bb6b32"),
            "around",
            "launch:from_cli_args",
            why="the policy implies a speculative algorithm; the config must reach the scheduler processes",
            until="SGLang passes a plugin's options to its processes",
        ),
        Patch(
            Target("sglang.srt.entrypoints.engine", "Engine.__init__", ("self", "**kwargs"), "6458fa9b0cef"),
            "assign",
            "launch:server_args_class",
            why="sgl.Engine(schedule_policy='seer', seer_config=...) must work like the command line",
            until="as above",
        ),
        Patch(
            Target(_SCHEDULER, "Scheduler.init_schedule_policy", ("self",), "af3bc06f4fc6"),
            "around",
            "hooks:init_schedule_policy",
            why="SchedulePolicy knows a fixed list of names",
            until="SGLang lets a plugin register a schedule policy",
        ),
        Patch(
            Target(_SCHEDULER, "Scheduler.get_prefill_adder_class", ("self",), "88b7a3279d78"),
            "after",
            "hooks:get_prefill_adder_class",
            why="SGLang reserves KV by the generation limit; here by what is known of lengths",
            until="SGLang lets a plugin decide admission",
        ),
        Patch(
            Target(_SCHEDULER, "Scheduler.process_batch_result", ("self", "batch", "result"), "1194e86a7032"),
            "after",
            "hooks:process_batch_result",
            why="finished lengths and last tokens of responses are learnt here",
            until="SGLang has an observer for processed batches",
        ),
        Patch(
            Target(_SCHEDULER, "Scheduler.flush_cache", ("self", "empty_cache"), "207dc0238df1"),
            "after",
            "hooks:flush_cache",
            why="a flush (weight update) ends what lengths and drafts were learnt from",
            until="SGLang tells plugins of weight updates",
        ),
        Patch(
            Target(
                "sglang.srt.managers.scheduler_components.internal_state",
                "SchedulerInternalStateController.get_internal_state",
                ("self", "recv_req"),
                "1b4453917513",
            ),
            "after",
            "hooks:get_internal_state",
            why="live counters of a scheduler in /server_info",
            until="SGLang lets a plugin add to the internal state",
        ),
        Patch(
            Target("sglang.srt.utils.common", "build_server_info", ("server_args", "scheduler_info"), "d6963f0410f4"),
            "after",
            "launch:build_server_info",
            why="/server_info says at the top level that Seer is on",
            until="as above",
        ),
    ),
    uses=(
        Target(
            _POLICY,
            "PrefillAdder.add_one_req",
            ("self", "req", "has_chunked_req", "truncation_align_size"),
            "ff9f32254e9b",
        ),
        Target(_POLICY, "PrefillAdder._get_running_request_total_token_offset", ("self", "req"), "2a1311a3e419"),
        Target("sglang.srt.mem_cache.prefill_budget", "PrefillBudget", None, "e507a797f1da"),
        Target(
            _POLICY,
            "SchedulePolicy.__init__",
            (
                "self",
                "policy",
                "tree_cache",
                "enable_hierarchical_cache",
                "enable_priority_scheduling",
                "schedule_low_priority_values_first",
            ),
        ),
        Target(
            _POLICY,
            "SchedulePolicy.calc_priority",
            ("self", "waiting_queue", "running_batch", "processed_tokens"),
            "592ff4af8efc",
        ),
        Target(
            _SCHEDULER,
            "Scheduler._get_new_batch_prefill_raw",
            ("self", "prefill_delayer_single_pass", "running_batch"),
            "2b0db78043ed",
        ),
        Target(
            _SCHEDULER,
            "Scheduler._relay_forward_payload",
            ("self", "batch", "future_indices", "batch_result"),
            "b952decff641",
        ),
        Target("sglang.srt.managers.schedule_batch", "ScheduleBatch.prepare_for_decode", ("self",), "0479930e2a23"),
        Target(
            "sglang.srt.managers.schedule_batch",
            "ScheduleBatch.cumulate_penalty_output_tokens",
            ("self",),
            "6f8116b6d2a6",
        ),
        Target(
            "sglang.srt.managers.tp_worker",
            "TpModelWorker.forward_batch_generation",
            (
                "self",
                "batch",
                "forward_batch",
                "pp_proxy_tensors",
                "is_verify",
                "skip_attn_backend_init",
                "capture_hidden_mode",
                "return_kv_loc_plan",
            ),
            "baae125810a0",
        ),
        Target(
            "sglang.srt.managers.scheduler_components.batch_result_processor",
            "SchedulerBatchResultProcessor._resolve_spec_v2_tokens",
            ("self", "result", "batch"),
            "2132eb8c7c6a",
        ),
        Target(
            "sglang.srt.sampling.sampling_batch_info",
            "SamplingBatchInfo.apply_logits_bias",
            ("self", "logits"),
            "49213dd13572",
        ),
        Target(
            "sglang.srt.sampling.sampling_batch_info",
            "SamplingBatchInfo.from_schedule_batch",
            ("cls", "batch", "vocab_size"),
            "58891daa3c10",
        ),
        Target(
            "sglang.srt.layers.sampler",
            "Sampler.forward",
            (
                "self",
                "logits_output",
                "sampling_info",
                "return_logprob",
                "top_logprobs_nums",
                "token_ids_logprobs",
                "positions",
                "logprob_logits",
            ),
            "9aca0764505b",
        ),
        Target("sglang.srt.layers.sampler", "multinomial_with_seed", ("logprobs", "seed", "positions"), "e866b5d1861e"),
        Target(
            "sglang.srt.layers.sampler",
            "top_k_top_p_min_p_sampling_from_probs_torch",
            (
                "probs",
                "top_ks",
                "top_ps",
                "min_ps",
                "need_min_p_sampling",
                "sampling_seed",
                "positions",
                "return_filtered_probs",
                "max_top_k",
            ),
            "32ee6f45ce15",
        ),
        Target(
            "sglang.srt.layers.logprob_processor",
            "compute_spec_logprobs",
            ("batch", "logits_output", "predict", "accept_index", "chain_stride"),
            "de030a069392",
        ),
        Target("sglang.srt.speculative.base_spec_worker", "BaseSpecWorker", None, "b8fff0da9490"),
        Target("sglang.srt.speculative.ngram_info", "NgramVerifyInput", None, "fd3a35a87e7d"),
        Target(
            "sglang.srt.speculative.ngram_worker",
            "NGRAMWorker.forward_batch_generation",
            ("self", "batch", "on_publish", "pp_proxy_tensors"),
            "4a9cfcfabe14",
        ),
        Target("sglang.srt.speculative.spec_registry", "CustomSpecAlgo", None, "577c7273d5c9"),
        Target(
            "sglang.srt.speculative.spec_utils",
            "move_accept_tokens_to_target_kvcache",
            ("batch", "accept_index", "num_correct_drafts", "token_to_kv_pool_allocator"),
            "d972beddfdf5",
        ),
        Target("sglang.srt.managers.overlap_utils", "RelayPayload.from_ngram", ("cls", "draft_input"), "b21e57abbf7d"),
        Target("sglang.srt.managers.utils", "GenerationBatchResult", None, "41771e9d146c"),
        Target(
            "sglang.kernels.ops.speculative.cache_locs",
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
            "06545f22c416",
        ),
        Target(
            "sglang.srt.speculative.spec_utils",
            "record_stream_for_v2_verify",
            ("batch", "verify_input", "fwd_stream"),
            "529ee2a343ca",
        ),
        Target("sglang.srt.speculative.eagle_utils", "eagle_prepare_for_decode", ("batch",), "06c1c2a9596a"),
        Target(
            "sglang.srt.speculative.spec_info",
            "SpeculativeAlgorithm.create_future_map",
            ("self", "device", "req_to_token_pool", "needs_cpu_seq_lens", "needs_confidence_relay"),
            "fd1a8a71150e",
        ),
        Target(
            "sglang.srt.layers.sampler",
            "apply_custom_logit_processor",
            ("logits", "sampling_batch_info", "num_tokens_in_batch"),
            "f1d434b69289",
        ),
        Target("sglang.srt.utils.async_probe", "sanitize_nan_logits", ("logits", "msg"), "646fea732786"),
        Target(
            "sglang.srt.sampling.sampling_batch_info",
            "SamplingBatchInfo.update_regex_vocab_mask",
            ("self",),
            "fd2c83e0a5e9",
        ),
        Target(
            "sglang.srt.sampling.sampling_batch_info", "SamplingBatchInfo.copy_for_forward", ("self",), "e61458a4adc8"
        ),
        Target(
            "sglang.srt.managers.overlap_utils", "FutureMap._resolve_spec_extras", ("self", "batch"), "0dd28019b066"
        ),
        Target(
            "sglang.srt.managers.overlap_utils",
            "FutureMap.resolve_seq_lens_cpu",
            ("self", "batch", "stream_ordered"),
            "18ef76b64211",
        ),
        Target("sglang.srt.managers.overlap_utils", "decide_needs_cpu_seq_lens", ("attn_backends",), "9233aad4769b"),
        Target(_SCHEDULER, "Scheduler.event_loop_overlap", ("self",), "bc3e50747e75"),
        Target(_SCHEDULER, "Scheduler._forward_isolation", ("self", "batch", "overlap"), "5eadfc5c18d5"),
        Target(_SCHEDULER, "Scheduler.pause_generation", ("self", "recv_req"), "f9bda8066cb3"),
        Target(
            "sglang.srt.managers.scheduler_components.batch_result_processor",
            "SchedulerBatchResultProcessor.process_batch_result_decode",
            ("self", "batch", "result"),
            "6fa896749e07",
        ),
        Target("sglang.srt.configs.hybrid_arch", "mambaish_config", ("model_config",), "8a1ac1033ae9"),
        Target("sglang.srt.arg_groups.model_override_base", "use_mla_backend", ("server_args",), "7049bcee6ed1"),
        Target(_GRAPHS, "DecodeCudaGraphRunner.__init__", _GRAPH_PARAMETERS, "247353743ef1"),
        Target(_GRAPHS, "DecodeCudaGraphRunner.can_run_graph", ("self", "forward_batch"), "c80a090bff3d"),
        Target(_GRAPHS, "DecodeCudaGraphRunner.get_spec_info", ("self", "num_tokens"), "39f839f3893e"),
        Target(_MODEL_RUNNER, "ModelRunner._get_attention_backend", ("self", "init_new_workspace"), "9253d48e9827"),
        Target(
            _MODEL_RUNNER,
            "ModelRunner._forward_raw",
            ("self", "forward_batch", "pp_proxy_tensors", "reinit_attn_backend", "split_forward_count"),
            "4c49f6dd6762",
        ),
        Target(_MODEL_RUNNER, "ModelRunner.decode_num_tokens_per_req", ("self", "num_draft_tokens"), "67c274413fef"),
        Target(
            "sglang.srt.speculative.eagle_worker_v2",
            "EAGLEWorkerV2.build_adaptive_runtime_state",
            ("self", "speculative_num_steps", "speculative_num_draft_tokens", "cuda_graph_bs"),
            "15d3eceff9c3",
        ),
        Target("sglang.srt.runtime_context", "_ConfigBag.override", ("self", "**kwargs"), "649bb4025f6f"),
        Target(
            "sglang.srt.managers.scheduler_components.batch_result_processor",
            "SchedulerBatchResultProcessor._apply_decode_logprobs",
            ("self", "req", "i", "batch", "next_token_id", "next_token_logprobs", "logits_output"),
            "ae49cafcc0e3",
        ),
        Target("sglang.srt.plugins", "load_plugins", (), "4af6a54c7fd5"),
    ),
)
