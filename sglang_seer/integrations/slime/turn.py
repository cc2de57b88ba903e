"""One turn of one slime sample: what every chunk adds to it, and what is told at the end.

Tokens, log-probabilities and replay data come chunk by chunk, so an abort finds them on the sample. Text, counters and
status come once, at the end: a character may straddle a seam, and a chunk's own end says nothing of the sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sglang_seer.integrations.slime import compat
from sglang_seer.integrations.slime.replay import TOP_P_KEYS, cut_routed_experts, cut_top_p
from sglang_seer.rollout.samples import Sample
from sglang_seer.rollout.stream import Part
from sglang_seer.rollout.verdict import Verdict

# In the sample's metadata: where an aborted turn began.
MARK = "seer_turn"
SUMMED = ("spec_accept_token_num", "spec_draft_token_num", "spec_verify_ct", "queue_time")
FINISH = {"cancelled": "abort"}


class Turn:
    """A ChunkListener. max_new_tokens: as slime's generate is asked.

    start: response tokens before the turn; done: of the turn, by an aborted call before; limit: of the turn.
    """

    def __init__(self, args: Any, sample: Any, max_new_tokens: int) -> None:
        self.sample = sample
        self._args = args
        mark = sample.metadata.pop(MARK, None) if sample.status is type(sample).Status.ABORTED else None
        self.start = mark["tokens"] if mark else sample.response_length
        self._characters = mark["characters"] if mark else len(sample.response)
        self.done = sample.response_length - self.start
        self.limit = max_new_tokens - (self.start if compat.counts_response() else 0)
        self._metas: list[dict[str, Any]] = []
        self._asked_from = 0
        prompt = len(sample.tokens) - self.done
        self.input_ids: list[int] = list(sample.tokens[:prompt])
        self.output_ids: list[int] = list(sample.tokens[prompt:])

    def body(self) -> Mapping[str, Any]:
        if not getattr(self._args, "use_rollout_routing_replay", False):
            return {}
        known = self.sample.rollout_routed_experts
        self._asked_from = 0 if known is None else len(known)
        return {"return_routed_experts": True, "routed_experts_start_len": self._asked_from}

    def usable(self, part: Part) -> bool:
        # Engines tell the kept token ids of top-p with the end of a request only.
        return part.finish is not None or not self._replays_top_p

    @property
    def _replays_top_p(self) -> bool:
        return getattr(self._args, "rollout_top_p", 1.0) != 1.0

    def kept(self, part: Part, verdict: Verdict) -> None:
        meta = part.meta or {}
        self._metas.append(meta)
        if not verdict.output_ids:
            return
        sample, kept = self.sample, len(verdict.output_ids)
        replay: dict[str, Any] = {}
        if meta.get("routed_experts") is not None:
            row = self._args.num_layers * self._args.moe_router_topk
            rows = len(sample.tokens) + kept - 1 - self._asked_from
            replay["routed_experts"] = cut_routed_experts(meta["routed_experts"], rows * row)
            replay["routed_experts_start_len"] = self._asked_from
        if any(meta.get(key) is not None for key in TOP_P_KEYS):
            replay |= cut_top_p(meta, kept)
        sample.append_response_tokens(
            self._args,
            tokens=verdict.output_ids,
            log_probs=verdict.logprobs,
            trainable=True,
            meta_info=replay,
            update_terminal_info=False,
        )

    def finish(self, result: Sample) -> dict[str, Any]:
        """Text, counters and status; gives what an engine would have said of the turn in one piece."""
        sample = self.sample
        sample.response = sample.response[: self._characters] + (result.text or "")
        finish = FINISH.get(result.finish_reason, result.finish_reason)
        if finish == "abort":
            sample.metadata[MARK] = {"tokens": self.start, "characters": self._characters}
        if not self._metas:
            sample.status = type(sample).Status.ABORTED
            return {"finish_reason": {"type": finish}}
        first, versions = self._metas[0], [one for one in result.weight_versions if one is not None]
        # slime adds one version a call: the last comes with the rest.
        sample.weight_versions += versions[:-1]
        meta = {
            "finish_reason": {"type": finish, "matched": result.matched},
            "prompt_tokens": first.get("prompt_tokens", 0),
            "cached_tokens": first.get("cached_tokens", 0),
            "completion_tokens": sample.response_length - self.start - self.done,
            "e2e_latency": result.finished_s - result.submitted_s,
            **{key: sum(one.get(key) or 0 for one in self._metas) for key in SUMMED if key in first},
            **({"weight_version": versions[-1]} if versions else {}),
        }
        sample.append_response_tokens(self._args, meta_info=meta)
        return meta
