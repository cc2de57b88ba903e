"""Stand-in: slime's own rollout, one request a sample through the router, first groups win, the others are aborted."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from slime.rollout.base_types import RolloutFnEvalOutput, RolloutFnTrainOutput
from slime.utils.async_utils import run
from slime.utils.http_utils import get, post
from slime.utils.misc import SingletonMeta, load_function
from slime.utils.processing_utils import load_tokenizer
from slime.utils.types import Sample

Groups = list[list[Sample]]
IDLE_POLL_S = 0.5


class GenerateState(metaclass=SingletonMeta):
    def __init__(self, args: Any) -> None:
        self.args = args
        self.tokenizer = load_tokenizer(args.hf_checkpoint, trust_remote_code=True)
        self.semaphore = asyncio.Semaphore(args.sglang_server_concurrency * args.rollout_num_engines)
        self.sampling_params: dict[str, Any] = {
            "temperature": args.rollout_temperature,
            "top_p": args.rollout_top_p,
            "top_k": args.rollout_top_k,
            "max_new_tokens": args.rollout_max_response_len,
            "stop": args.rollout_stop,
            "stop_token_ids": args.rollout_stop_token_ids,
            "skip_special_tokens": args.rollout_skip_special_tokens,
            "no_stop_trim": True,
            "spaces_between_special_tokens": False,
        }
        if args.rollout_top_p != 1.0:
            self.sampling_params["custom_params"] = {"return_top_p_token_ids": True}
        self.reset()

    @contextmanager
    def dp_rank_context(self) -> Iterator[int]:
        yield 0

    def reset(self) -> None:
        self.remaining_batch_size = 0
        self.pendings: set[asyncio.Task[Any]] = set()
        self.aborted = False


async def generate(args: Any, sample: Sample, sampling_params: dict[str, Any]) -> Sample:
    state = GenerateState(args)
    assert sample.status in (Sample.Status.PENDING, Sample.Status.ABORTED)
    if not sample.tokens:
        sample.tokens = state.tokenizer.encode(sample.prompt, add_special_tokens=False)
    if not sampling_params["max_new_tokens"]:
        sample.status = Sample.Status.TRUNCATED
        return sample
    payload = {"input_ids": sample.tokens, "sampling_params": sampling_params, "return_logprob": True}
    if args.use_rollout_routing_replay:
        payload["return_routed_experts"] = True
    output = await post(f"http://{args.sglang_router_ip}:{args.sglang_router_port}/generate", payload)
    pairs = output["meta_info"].get("output_token_logprobs", [])
    sample.append_response_tokens(
        args,
        tokens=[pair[1] for pair in pairs],
        log_probs=[pair[0] for pair in pairs],
        meta_info=output["meta_info"],
        text=output["text"],
    )
    return sample


async def generate_and_rm(args: Any, sample: Sample, sampling_params: dict[str, Any], evaluation: bool = False) -> Any:
    if args.partial_rollout and args.mask_offpolicy_in_partial_rollout and sample.response_length:
        sample.loss_mask = [0] * sample.response_length
    if sample.status in (Sample.Status.COMPLETED, Sample.Status.TRUNCATED):
        return sample
    state = GenerateState(args)
    async with state.semaphore:
        if state.aborted:
            sample.status = Sample.Status.ABORTED
            return sample
        with state.dp_rank_context():
            path = sample.generate_function_path or args.custom_generate_function_path
            function: Any = load_function(path) if path else generate
            options = {"evaluation": evaluation} if "evaluation" in inspect.signature(function).parameters else {}
            sample = await function(args, sample, sampling_params, **options)
    if sample.status is not Sample.Status.ABORTED and sample.reward is None:
        sample.reward = await load_function(args.custom_rm_path)(args, sample)
    return sample


async def generate_and_rm_group(args: Any, group: list[Sample], sampling_params: dict[str, Any]) -> list[Sample]:
    if GenerateState(args).aborted:
        return group
    work = []
    for number, sample in enumerate(group):
        parameters = dict(sampling_params)
        if args.sglang_enable_deterministic_inference:
            parameters["sampling_seed"] = args.rollout_seed + number
        work.append(generate_and_rm(args, sample, parameters))
    return list(await asyncio.gather(*work))


async def abort(args: Any, rollout_id: int) -> Groups:
    state, aborted = GenerateState(args), []
    state.aborted = True
    workers = await get(f"http://{args.sglang_router_ip}:{args.sglang_router_port}/workers")
    await asyncio.gather(*(_abort_until_idle(worker["url"]) for worker in workers["workers"]))
    while state.pendings:
        done, state.pendings = await asyncio.wait(state.pendings, return_when=asyncio.FIRST_COMPLETED)
        for group in (task.result() for task in done):
            if args.partial_rollout:
                for sample in group:
                    if sample.response:
                        sample.metadata.setdefault("start_rollout_id", rollout_id)
                aborted.append(group)
    return aborted


async def _abort_until_idle(url: str) -> None:
    try:
        while True:
            await post(f"{url}/abort_request", {"abort_all": True}, max_retries=1)
            loads = (await get(f"{url}/v1/loads?include=core"))["loads"]
            if not sum(rank["num_running_reqs"] + rank["num_waiting_reqs"] for rank in loads):
                return
            await asyncio.sleep(IDLE_POLL_S)
    except OSError:
        return
    except Exception as error:  # noqa: BLE001 - an engine that does not answer has nothing to abort
        print(f"stand-in: {url}: {error}")


async def generate_rollout_async(
    args: Any, rollout_id: int, get_samples: Callable[[int], Groups]
) -> tuple[RolloutFnTrainOutput, Groups]:
    state, data = GenerateState(args), []
    while len(data) < args.rollout_batch_size:
        while state.remaining_batch_size < args.rollout_batch_size:
            groups = get_samples(args.over_sampling_batch_size)
            for group in groups:
                parameters = state.sampling_params.copy()
                state.pendings.add(asyncio.create_task(generate_and_rm_group(args, group, parameters)))
            state.remaining_batch_size += len(groups)
        done, state.pendings = await asyncio.wait(state.pendings, return_when=asyncio.FIRST_COMPLETED)
        data += [task.result() for task in done][: args.rollout_batch_size - len(data)]
    aborted = await abort(args, rollout_id)
    state.reset()
    data.sort(key=lambda group: group[0].index)
    return RolloutFnTrainOutput(samples=data, metrics={}), aborted


async def eval_rollout(args: Any) -> RolloutFnEvalOutput:
    data = {}
    for dataset in args.eval_datasets:
        parameters = {**GenerateState(args).sampling_params, "max_new_tokens": dataset.max_response_len}
        work = []
        for index, sample in enumerate(copy.deepcopy(dataset.samples)):
            sample.index = index
            seed = {"sampling_seed": args.rollout_seed} if args.sglang_enable_deterministic_inference else {}
            work.append(generate_and_rm(args, sample, {**parameters, **seed}, evaluation=True))
        samples = await asyncio.gather(*work)
        truncated = [sample.status is Sample.Status.TRUNCATED for sample in samples]
        rewards = [sample.reward for sample in samples]
        data[dataset.name] = {"rewards": rewards, "truncated": truncated, "samples": samples}
    return RolloutFnEvalOutput(data=data)


def generate_rollout(args: Any, rollout_id: int, data_source: Any, evaluation: bool = False) -> Any:
    if evaluation:
        return run(eval_rollout(args))
    output, aborted = run(generate_rollout_async(args, rollout_id, data_source.get_samples))
    if aborted:
        data_source.add_samples(aborted)
    return output
