"""SGLang 0.5.23."""

from __future__ import annotations

from sglang_seer.patches.contract import Target
from sglang_seer.patches.ledger import Patch, PatchSet

_SCHEDULER = "sglang.srt.managers.scheduler"
_SERVER_ARGS = "sglang.srt.server_args"

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
            "sglang.srt.managers.schedule_policy",
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
            "sglang.srt.managers.schedule_policy",
            "SchedulePolicy.calc_priority",
            ("self", "waiting_queue", "running_batch", "processed_tokens"),
        ),
        Target(_SCHEDULER, "Scheduler._get_new_batch_prefill_raw", None, "2b0db78043ed"),
        Target(_SCHEDULER, "Scheduler._relay_forward_payload", None, "b952decff641"),
        Target("sglang.srt.managers.schedule_batch", "ScheduleBatch.prepare_for_decode", ("self",), "0479930e2a23"),
        Target(
            "sglang.srt.managers.schedule_batch",
            "ScheduleBatch.cumulate_penalty_output_tokens",
            ("self",),
            "6f8116b6d2a6",
        ),
        Target("sglang.srt.managers.tp_worker", "TpModelWorker.forward_batch_generation", None, "baae125810a0"),
        Target(
            "sglang.srt.managers.scheduler_components.batch_result_processor",
            "SchedulerBatchResultProcessor._resolve_spec_v2_tokens",
            ("self", "result", "batch"),
            "2132eb8c7c6a",
        ),
        Target("sglang.srt.sampling.sampling_batch_info", "SamplingBatchInfo.apply_logits_bias", None, "49213dd13572"),
        Target(
            "sglang.srt.sampling.sampling_batch_info", "SamplingBatchInfo.from_schedule_batch", None, "58891daa3c10"
        ),
        Target("sglang.srt.layers.sampler", "Sampler.forward", None, "9aca0764505b"),
        Target("sglang.srt.layers.sampler", "multinomial_with_seed", ("logprobs", "seed", "positions"), "e866b5d1861e"),
        Target("sglang.srt.layers.sampler", "top_k_top_p_min_p_sampling_from_probs_torch", None, "32ee6f45ce15"),
        Target("sglang.srt.layers.logprob_processor", "compute_spec_logprobs", None, "de030a069392"),
        Target("sglang.srt.speculative.base_spec_worker", "BaseSpecWorker", None, "b8fff0da9490"),
        Target("sglang.srt.speculative.ngram_info", "NgramVerifyInput", None, "fd3a35a87e7d"),
        Target("sglang.srt.speculative.ngram_worker", "NGRAMWorker.forward_batch_generation", None, "4a9cfcfabe14"),
        Target("sglang.srt.speculative.spec_registry", "CustomSpecAlgo", None, "577c7273d5c9"),
        Target("sglang.srt.speculative.spec_utils", "move_accept_tokens_to_target_kvcache", None, "d972beddfdf5"),
        Target("sglang.srt.managers.overlap_utils", "RelayPayload.from_ngram", ("cls", "draft_input"), "b21e57abbf7d"),
        Target("sglang.srt.managers.utils", "GenerationBatchResult", None, "41771e9d146c"),
        Target("sglang.srt.plugins", "load_plugins", (), "4af6a54c7fd5"),
    ),
)
