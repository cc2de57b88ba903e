"""What a user of slime writes, found by dotted path: a reward, and a function with a tool between two turns."""

from __future__ import annotations

from typing import Any

from sglang_seer.integrations.slime import compat, generate

TOOL_TEXT = "\nThe tool says: 12\n"


async def reward(args: Any, sample: Any, **options: Any) -> float:
    return float(len(sample.response) % 7)


async def _two_turns(args: Any, sample: Any, sampling_params: dict[str, Any], one_turn: Any) -> Any:
    sampling_params = {**sampling_params, "max_new_tokens": 40}
    sample = await one_turn(args, sample, dict(sampling_params))
    statuses = type(sample).Status
    if sample.status is statuses.ABORTED:
        return sample
    said = (
        compat.slime("rollout.sglang_rollout").GenerateState(args).tokenizer.encode(TOOL_TEXT, add_special_tokens=False)
    )
    sample.append_response_tokens(args, tokens=said, trainable=False, text=TOOL_TEXT)
    sample.status = statuses.PENDING
    more = {**sampling_params, "max_new_tokens": 40 + (sample.response_length if compat.counts_response() else 0)}
    return await one_turn(args, sample, more)


async def with_tool(args: Any, sample: Any, sampling_params: dict[str, Any]) -> Any:
    return await _two_turns(args, sample, sampling_params, generate)


async def with_tool_in_slime(args: Any, sample: Any, sampling_params: dict[str, Any]) -> Any:
    return await _two_turns(args, sample, sampling_params, compat.slime("rollout.sglang_rollout").generate)
