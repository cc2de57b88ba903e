"""Agent loops of a user: veRL's single-turn and tool loops, with sampling parameters of the sample."""

from __future__ import annotations

from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser


def counted(output: AgentLoopOutput) -> AgentLoopOutput:
    """With the number of tokens and of log-probabilities, before padding hides them."""
    output.extra_fields["counts"] = [len(output.response_ids), len(output.response_logprobs or ())]
    return output


@register("sampled")
class Sampled(SingleTurnAgentLoop):
    """veRL's, with the sample's own sampling parameters."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        return counted(await super().run({**sampling_params, **kwargs["sampling"]}, **kwargs))


@register("sampled_tool")
class SampledTool(ToolAgentLoop):
    """veRL's, with the sample's own sampling parameters."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        return counted(await super().run({**sampling_params, **kwargs["sampling"]}, **kwargs))


@ToolParser.register("every_turn")
class EveryTurn(ToolParser):
    """The tiny reasoner knows no tools: each of its responses counts as a call."""

    async def extract_tool_calls(self, responses_ids: list[int], tools: Any = None) -> tuple[str, list[FunctionCall]]:
        text = self.tokenizer.decode(responses_ids)
        return text, [FunctionCall(name="length_of", arguments='{"text": "abc"}')]
