"""Speculative algorithm SEER: what SGLang's arguments must look like for it, and what it refuses."""

from __future__ import annotations

from typing import Any

from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
from sglang.srt.speculative.spec_registry import CustomSpecAlgo

from sglang_seer.config import SeerConfig, mode_from_environment
from sglang_seer.engine.launch import ALGORITHM, POLICY, fail
from sglang_seer.patches.adapter import line

# Attention backends that honour a tree mask in verification; the others verify chains.
TREE_BACKENDS = frozenset({"flashinfer", "triton", "torch_native"})
# Of those others, the ones that never read a mask when the server verifies chains.
CAUSAL_BACKENDS = frozenset({"fa3", "fa4"})


def refusal_reasons(args: Any) -> list[str]:
    """Features not proven with speculation, one reason each.

    `args` are SGLang's server arguments.
    """
    args = line.resolved(args)
    wrong = {
        "pp_size": ("pipeline parallelism", args.pp_size > 1),
        "attn_dp_size": ("DP attention", (getattr(args, "attn_dp_size", 1) or 1) > 1 or args.enable_dp_attention),
        "disaggregation_mode": ("prefill/decode disaggregation", args.disaggregation_mode not in (None, "null")),
        "enable_two_batch_overlap": ("two-batch overlap", args.enable_two_batch_overlap),
        "enable_watermark": ("watermarking", getattr(args, "enable_watermark", False)),
        "enable_return_hidden_states": ("returned hidden states", args.enable_return_hidden_states),
        "enable_lora": ("LoRA", bool(args.enable_lora)),
        "rl_on_policy_target": ("on-policy sampling from bf16 log-probabilities", args.rl_on_policy_target is not None),
        "speculative_adaptive": ("--speculative-adaptive", getattr(args, "speculative_adaptive", False)),
    }
    return [
        f"{what} ({name}) is not proven with Seer's speculation: "
        'set {"speculation": false} in the seer config to keep scheduling, or switch it off'
        for name, (what, seen) in wrong.items()
        if seen
    ]


def _backends(args: Any) -> set[str]:
    args = line.resolved(args)
    return {args.attention_backend, args.prefill_attention_backend, args.decode_attention_backend} - {None}


def serves_trees(args: Any) -> bool:
    """Whether verification honours a tree mask on these attention backends; MLA models verify chains only."""
    return _backends(args) <= TREE_BACKENDS and line.allows_trees(args) and not line.use_mla_backend(args)


def reads_mask(args: Any) -> bool:
    """Whether any of these attention backends may read the mask of a verification."""
    return not _backends(args) <= CAUSAL_BACKENDS


class SeerAlgorithm(CustomSpecAlgo):
    """Takes NGRAM's way through the scheduler: no draft model, a verify input with a tree mask, the same relay."""

    create_future_map = line.create_future_map

    def is_ngram(self) -> bool:
        return True

    def has_draft_kv(self) -> bool:
        return False

    def carries_draft_hidden_states(self) -> bool:
        return False

    def need_topk(self) -> bool:
        return False

    def handle_server_args(self, server_args: Any) -> None:
        """Fill what verification of trees needs. `server_args` records our writes as declared defaults."""
        reasons = refusal_reasons(server_args) + line.speculation_reasons(server_args)
        if server_args.schedule_policy != POLICY and mode_from_environment() != "on":
            reasons.append(f"speculative algorithm {ALGORITHM} needs --scheduler-policy {POLICY}")
        if reasons:
            fail(reasons)
        if server_args.speculative_num_draft_tokens is None:
            server_args.speculative_num_draft_tokens = SeerConfig().draft_nodes + 1
        width = server_args.speculative_num_draft_tokens
        if not 2 <= width <= 64:
            fail([f"speculative_num_draft_tokens: got {width}, wanted 2 to 64 (root included)"])
        # The KV reserve is max(steps * topk, width); topk above 1 tells attention backends to expect a tree.
        server_args.speculative_num_steps = 1
        server_args.speculative_eagle_topk = width if serves_trees(server_args) else 1
        server_args.enable_mixed_chunk = False


def register() -> None:
    """Make SEER a name SGLang knows. Idempotent."""
    from sglang.srt.speculative.spec_registry import get_spec

    if get_spec(ALGORITHM) is not None:
        return

    # Lines that do not ask an algorithm to handle server arguments let it validate them, at the same place.
    asks = hasattr(CustomSpecAlgo, "handle_server_args")

    @SpeculativeAlgorithm.register(
        ALGORITHM,
        supports_overlap=True,
        validate_server_args=None if asks else lambda args: get_spec(ALGORITHM).handle_server_args(args),
        spec_class=SeerAlgorithm,
    )
    def worker_class(server_args: Any) -> type:
        from sglang_seer.engine.worker import SeerWorker

        return SeerWorker
