"""Seer's client of veRL's servers where they fail, on stand-ins of veRL; the desk is the real one."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sglang_seer.integrations.verl.chunks import Lengths
from sglang_seer.integrations.verl.trajectory import Trajectory, within
from sglang_seer.rollout.client import RolloutError
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.desk import Ask, Desk, Report
from tests.integrations.verl.stand_ins import ActorDiedError, Handle, RayError, TokenOutput, modules
from tests.rollout.fleet_of_stubs import until

PROMPT = [5, 6, 7]
END = 9
LENGTH = 37
Fault = Callable[[int, list[int]], TokenOutput | None]


class Config(SimpleNamespace):
    """With veRL's `get`."""

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


class Server:
    """Gives the tokens 100, 101, ... after the prompt, END as the 37th; log-probabilities -0.01, -0.02, ..."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.fault: Fault | None = None
        self.step = 1

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        self.calls.append({"prompt_ids": list(prompt_ids), **sampling_params})
        assert prompt_ids[:3] == PROMPT
        done = len(prompt_ids) - 3
        most = sampling_params["max_new_tokens"]
        tokens = [*range(100 + done, min(100 + done + most, 100 + LENGTH - 1))]
        stop = "length"
        if done + most >= LENGTH:
            tokens, stop = [*tokens, END], "stop"
        if self.fault is not None and (output := self.fault(len(self.calls), tokens)) is not None:
            return output
        return answer(done, tokens, stop, self.step)


def answer(done: int, tokens: list[int], stop: str, step: int = 1) -> TokenOutput:
    logprobs = [-(done + number + 1) / 100 for number in range(len(tokens))]
    rows = np.arange(3 + done + len(tokens) - 1).reshape(-1, 1, 1)
    return TokenOutput(
        token_ids=tokens,
        log_probs=logprobs,
        stop_reason=stop,
        routed_experts=rows,
        extra_fields={"global_steps": step},
    )


class Router:
    """The router's calls, on a real desk."""

    def __init__(self, servers: dict[str, Server]) -> None:
        self.desk = Desk(RolloutConfig(chunk_tokens=8, backoff_s=0.01, strikes=2, fruitless=4, poll_s=0.02))
        self.handles = {name: Handle(server) for name, server in servers.items()}
        self.plain = 0
        for name in servers:
            self.desk.add_engine(name, capacity_tokens=10_000, slots=8)

    def require_acquire_fields(self) -> list[str]:
        return ["seer"]

    def check(self) -> dict[str, Any]:
        return {"chunk_tokens": 8, "backoff_s": 0.01, "engines": {}}

    async def acquire_server(self, request_id: str, seer: Ask | None = None) -> tuple[str, Handle]:
        if seer is None:
            self.plain += 1
            return next(iter(self.handles.items()))
        place = await self.desk.take(seer)
        return place.engine, self.handles[place.engine]

    def release_server(
        self, server_id: str | None, request_id: str | None = None, seer: tuple[str, Report] | None = None
    ) -> None:
        if seer is not None:
            self.desk.give_back(*seer)


class Job(SimpleNamespace):
    """servers: two, by name."""

    async def ask(self, **sampling: Any) -> TokenOutput:
        with within(Trajectory("g", 0)):
            output: TokenOutput = await asyncio.wait_for(
                self.client.generate("r", prompt_ids=PROMPT, sampling_params={"logprobs": True, **sampling}), 100
            )
        return output

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [call for server in self.servers.values() for call in server.calls]


@pytest.fixture
async def job(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Job]:
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("response", "client"):
        monkeypatch.delitem(sys.modules, f"sglang_seer.integrations.verl.{name}", raising=False)
    client_class = importlib.import_module("sglang_seer.integrations.verl.client").SeerClient
    servers = {"a": Server(), "b": Server()}
    router = Router(servers)
    config = Config(actor_rollout_ref=Config(rollout=Config(seed=3)))
    client = client_class(config, Handle(router))
    client.prepare(
        tokenizer=None,
        eos_token_ids=[END],
        lengths=Lengths(prompt_length=16, response_length=64, max_model_len=200),
    )
    await client.check()
    running = asyncio.create_task(router.desk.run())
    yield Job(servers=servers, router=router, client=client, config=config)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    for name in ("response", "client"):
        sys.modules.pop(f"sglang_seer.integrations.verl.{name}", None)


def whole(length: int = LENGTH) -> list[int]:
    return [*range(100, 100 + LENGTH - 1), END][:length]


def assert_is_whole(output: TokenOutput, length: int = LENGTH) -> None:
    assert output.token_ids == whole(length)
    assert output.log_probs == pytest.approx([-(number + 1) / 100 for number in range(length)])
    # A row for each token that went through the model: all but the last.
    assert output.routed_experts[:, 0, 0].tolist() == list(range(3 + length - 1))


def nothing_left(job: Job) -> None:
    assert len(job.router.desk.buffer) == 0
    assert {engine.in_flight for engine in job.router.desk.buffer.engines.values()} == {0}


async def test_a_chain_of_chunks_is_the_whole(job: Job) -> None:
    output = await job.ask()
    assert_is_whole(output)
    assert output.stop_reason == "stop"
    assert [call["max_new_tokens"] for call in job.calls] == [8] * 5
    assert {call["custom_params"]["seer"]["group"] for call in job.calls} == {"g"}
    assert len({call["sampling_seed"] for call in job.calls}) == 1
    nothing_left(job)


@pytest.mark.parametrize("limit", [1, 7, 8, 9, 16, 36])
async def test_every_limit(job: Job, limit: int) -> None:
    output = await job.ask(max_tokens=limit)
    assert_is_whole(output, limit)
    assert output.stop_reason == "length"
    nothing_left(job)


async def test_an_end_that_a_server_calls_length(job: Job) -> None:
    """SGLang up to 0.5.15 says `length` where the end is the last token of a chunk."""

    def late(call: int, tokens: list[int]) -> TokenOutput | None:
        return answer(0, [100, 101, 102, 103, 104, 105, 106, END], "length") if call == 1 else None

    for server in job.servers.values():
        server.fault = late
    output = await job.ask()
    assert (output.token_ids[-1], len(output.token_ids), output.stop_reason) == (END, 8, "stop")


@pytest.mark.parametrize("kept", [0, 3])
async def test_an_aborted_chunk_goes_on(job: Job, kept: int) -> None:
    def aborted(call: int, tokens: list[int]) -> TokenOutput | None:
        return answer(0, tokens[:kept], "abort") if call == 1 else None

    job.servers["a"].fault = job.servers["b"].fault = aborted
    output = await job.ask()
    assert_is_whole(output)
    nothing_left(job)


async def test_an_aborted_sample_of_a_trainer_that_drops_them(job: Job) -> None:
    job.config.async_training = Config(partial_rollout=False)
    job.servers["a"].fault = job.servers["b"].fault = lambda call, tokens: answer(0, tokens[:3], "abort")
    output = await job.ask()
    assert (output.token_ids, output.stop_reason) == (whole(3), "aborted")
    assert len(output.log_probs) == 3
    nothing_left(job)


@pytest.mark.parametrize(
    "bad",
    [
        TokenOutput(token_ids=[], log_probs=[], stop_reason="length"),
        TokenOutput(token_ids=[100, 101], log_probs=[-0.1], stop_reason="stop"),
        TokenOutput(token_ids=[100], log_probs=None, stop_reason="stop"),
    ],
)
async def test_wrong_counts_of_logprobs_are_asked_for_again(job: Job, bad: TokenOutput) -> None:
    job.servers["a"].fault = job.servers["b"].fault = lambda call, tokens: bad if call == 1 else None
    assert_is_whole(await job.ask())
    assert job.router.desk.buffer.counts.broken
    nothing_left(job)


@pytest.mark.parametrize("error", [RayError, ActorDiedError])
async def test_a_server_that_dies(job: Job, error: type[Exception]) -> None:
    asked: list[str] = []

    def dying(name: str) -> Fault:
        def fault(call: int, tokens: list[int]) -> TokenOutput | None:
            asked.append(name)
            if len(asked) == 2:
                raise error("gone")
            return None

        return fault

    for name, server in job.servers.items():
        server.fault = dying(name)
    assert_is_whole(await job.ask())
    nothing_left(job)
    assert (asked[1] in job.router.desk.buffer.up) == (error is RayError)


async def test_servers_that_all_fail_are_an_error(job: Job) -> None:
    def broken(call: int, tokens: list[int]) -> TokenOutput | None:
        raise RayError("out of order")

    job.servers["a"].fault = job.servers["b"].fault = broken
    with pytest.raises(RolloutError, match=r"4 chunks in a row without a token, the last on .: engine: RayError"):
        await job.ask()
    nothing_left(job)


async def test_a_request_that_is_wrong_itself(job: Job) -> None:
    def refusing(call: int, tokens: list[int]) -> TokenOutput | None:
        raise ValueError("temperature must not be negative")

    job.servers["a"].fault = job.servers["b"].fault = refusing
    with pytest.raises(ValueError, match="temperature must not be negative"):
        await job.ask()
    assert len(job.calls) == 1
    nothing_left(job)


async def test_what_cannot_be_cut_starts_again(job: Job) -> None:
    def aborted(call: int, tokens: list[int]) -> TokenOutput | None:
        return answer(0, tokens[:3], "abort") if call == 1 else None

    job.servers["a"].fault = job.servers["b"].fault = aborted
    output = await job.ask(frequency_penalty=0.5)
    assert_is_whole(output)
    assert {len(call["prompt_ids"]) for call in job.calls} == {3}
    nothing_left(job)


async def test_a_cancelled_request_leaves_nothing(job: Job) -> None:
    started = asyncio.Event()

    async def slow(**_: Any) -> TokenOutput:
        started.set()
        await asyncio.sleep(60)
        raise AssertionError("not reached")

    for server in job.servers.values():
        server.generate = slow
    task = asyncio.create_task(job.ask())
    await started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: not len(job.router.desk.buffer))
    nothing_left(job)


async def test_weight_versions_of_a_sample(job: Job) -> None:
    def updated(call: int, tokens: list[int]) -> TokenOutput | None:
        for server in job.servers.values():
            server.step = 2 if call > 2 else 1
        return None

    job.servers["a"].fault = job.servers["b"].fault = updated
    fields = (await job.ask()).extra_fields
    assert (fields["min_global_steps"], fields["max_global_steps"], fields["global_steps"]) == (1, 2, 2)
    assert job.router.desk.weight_updates == 1


async def test_what_goes_veRLs_own_way(job: Job) -> None:
    output = await job.ask(prompt_logprobs=0, max_new_tokens=40)
    assert output.token_ids == whole()
    assert (job.router.plain, len(job.calls)) == (1, 1)
    assert "custom_params" not in job.calls[0]


async def test_a_router_that_is_another(job: Job) -> None:
    job.router.require_acquire_fields = list
    with pytest.raises(RuntimeError, match="the router of this job is not Seer's"):
        await job.client.check()
