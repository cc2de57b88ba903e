"""slime (github.com/THUDM/slime) over Seer's request buffer: two functions for slime's own options.

    --rollout-function-path sglang_seer.integrations.slime.generate_rollout
    --custom-generate-function-path sglang_seer.integrations.slime.generate

`generate` alone also serves slime's own rollout function, and each turn of a function with tools. See docs/slime.md.
"""

from __future__ import annotations

import asyncio
import copy
from typing import Any

from sglang_seer.integrations.slime import compat
from sglang_seer.integrations.slime.engines import engines_of_process
from sglang_seer.integrations.slime.turn import Turn
from sglang_seer.rollout.client import RolloutError

GENERATE_PATH = "sglang_seer.integrations.slime.generate"
# slime's semaphore is first come, first served; here the request buffer says who goes first, so it must see everyone.
EVERYONE = 1 << 20


async def generate(args: Any, sample: Any, sampling_params: dict[str, Any], evaluation: bool = False) -> Any:
    """The sample with its next turn generated: slime's `generate`, in chunks, each on the engine where it goes best.

    Sets `status` as slime does; an aborted sample is gone on with at the next call. Images take slime's own path.
    Raises ValueError for settings, versions and requests that cannot be served, RolloutError where engines fail.
    """
    engines = engines_of_process(args)
    if any(value is not None for value in (sample.multimodal_inputs or {}).values()):
        engines.metrics["passed_on"] += 1
        return await compat.slime("rollout.sglang_rollout").generate(args, sample, sampling_params)
    statuses = type(sample).Status
    if sample.status not in (statuses.PENDING, statuses.ABORTED):
        raise ValueError(f"sample {sample.index}: status is {sample.status}, wanted PENDING or ABORTED")
    if not sample.tokens:
        sample.tokens = engines.tokenizer.encode(sample.prompt, add_special_tokens=False)
    turn = Turn(args, sample, sampling_params["max_new_tokens"])
    if turn.limit <= turn.done:
        sample.status = statuses.TRUNCATED
        return sample
    tracing = compat.tracing()
    with tracing.trace_span(sample, "sglang_generate", attrs={"max_new_tokens": turn.limit}) as span:
        result = await engines.generate(turn, sampling_params, evaluation=evaluation)
        if result.finish_reason == "error":
            raise RolloutError(f"sample {sample.index}: {result.error}")
        span.update(tracing.build_sglang_meta_trace_attrs(turn.finish(result)))
    return sample


def generate_rollout(args: Any, rollout_id: int, data_source: Any, evaluation: bool = False) -> Any:
    """slime's `generate_rollout` with every sample through the request buffer, and Seer's metrics (`seer/...`).

    slime's filters, reward models, over-sampling, abort and partial rollout are its own. Raises as `generate`.
    """
    compat.check(args)
    rollout, run = compat.slime("rollout.sglang_rollout"), compat.slime("utils.async_utils").run
    args = copy.copy(args)
    if args.custom_generate_function_path is None:
        args.custom_generate_function_path = GENERATE_PATH
    rollout.GenerateState(args).semaphore = asyncio.Semaphore(EVERYONE)
    metrics: dict[str, float] = {}
    try:
        output = rollout.generate_rollout(args, rollout_id, data_source, evaluation=evaluation)
    finally:
        metrics = run(_rest(args))
    output.metrics = {**(output.metrics or {}), **metrics}
    return output


async def _rest(args: Any) -> dict[str, float]:
    engines = engines_of_process(args)
    await engines.close()
    return engines.take_metrics()
