"""A response that grows chunk by chunk, as veRL's TokenOutput at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from verl.workers.rollout.replica import TokenOutput

# Counted anew by the engine in each chunk.
SUMMED = ("spec_num_draft_tokens", "spec_num_accepted_tokens", "spec_num_verify_steps")


@dataclass(slots=True)
class Response:
    """Tokens so far and what veRL's trainers read beside them."""

    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    routed_experts: Any = None
    num_preempted: int | None = None
    steps: list[Any] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def add(self, output: TokenOutput, token_ids: list[int], log_probs: list[float] | None) -> None:
        """Takes the tokens that are kept of a chunk; they are its first ones."""
        if self.num_preempted is not None or output.num_preempted is not None:
            self.num_preempted = (self.num_preempted or 0) + (output.num_preempted or 0)
        said = output.extra_fields
        sums = {key: int(self.fields.get(key, 0)) + int(said[key]) for key in SUMMED if key in said}
        cached = self.fields.get("num_cached_tokens", said.get("num_cached_tokens"))
        self.fields = {**said, **sums, "num_cached_tokens": cached}
        if not token_ids:
            return
        self.steps.append(said.get("global_steps"))
        if output.routed_experts is not None:
            self._add_experts(output, len(token_ids))
        self.token_ids += token_ids
        self.log_probs += log_probs or ()

    def _add_experts(self, output: TokenOutput, kept: int) -> None:
        # Rows are of all tokens that went through the model: those of the prompt too, where it is the first chunk.
        new = len(output.token_ids)
        rows = output.routed_experts[: len(output.routed_experts) - (new - kept)]
        if self.routed_experts is None:
            self.routed_experts = rows
        else:
            self.routed_experts = np.concatenate([self.routed_experts, rows[-kept:]])

    def output(self, stop_reason: str, *, logprobs: bool) -> TokenOutput:
        """The whole. veRL's weight versions are the trainer's global steps."""
        steps = {"global_steps": None, "min_global_steps": None, "max_global_steps": None}
        if self.steps:
            steps = {
                "global_steps": self.steps[-1],
                "min_global_steps": self.steps[0],
                "max_global_steps": self.steps[-1],
            }
        return TokenOutput(
            token_ids=self.token_ids,
            log_probs=self.log_probs if logprobs else None,
            routed_experts=self.routed_experts,
            stop_reason=stop_reason,
            num_preempted=self.num_preempted,
            extra_fields={**self.fields, **steps},
        )
