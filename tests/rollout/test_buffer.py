"""The request buffer under any sequence of events, and rollouts on stand-ins under any sequence of faults."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bench.controller.stub import Stub
from sglang_seer.context import ContextLengths
from sglang_seer.rollout.buffer import Request, RequestBuffer
from sglang_seer.rollout.controller import RolloutController
from sglang_seer.rollout.exact import plan
from sglang_seer.rollout.samples import Chunk
from sglang_seer.schedule import Rules, WaitingQueue
from tests.rollout.fleet_of_stubs import assert_undisturbed, disturbed, prompts, stubs

STARVATION_LIMIT = 6
ENGINES = ("a", "b", "c", "d")


class BufferMachine(RuleBasedStateMachine):
    """Requests come, chunks end well or badly, engines die, come and go, weights change, samples are cancelled.

    A response is 100, 101, 102, ...: what is kept must be its beginning, whatever happened.
    """

    @initialize(risk=st.sampled_from([0.0, 0.05, 0.5]), chunk=st.integers(1, 8), capacity=st.integers(20, 200))
    def start(self, risk: float, chunk: int, capacity: int) -> None:
        self.chunk = chunk
        self.buffer = RequestBuffer(
            ContextLengths(),
            chunk_tokens=chunk,
            overflow_risk=risk,
            rules=Rules(starvation_limit=STARVATION_LIMIT),
        )
        self.capacity = capacity
        self.made: list[Request] = []
        self.left: dict[int, int] = {}
        self.passed: dict[int, int] = {}
        self.found: dict[int, int] = {}
        self.add("a")

    @rule(name=st.sampled_from(ENGINES))
    def add(self, name: str) -> None:
        if name in self.buffer.engines:
            self.buffer.set_up(name, True)
        else:
            self.buffer.add_engine(name, capacity_tokens=self.capacity, slots=3)

    @rule(name=st.sampled_from(ENGINES))
    def kill(self, name: str) -> None:
        """What ran there comes back as broken chunks, with or without tokens, in any order with other events."""
        if name in self.buffer.engines:
            self.buffer.set_up(name, False)

    @rule(name=st.sampled_from(ENGINES))
    def remove(self, name: str) -> None:
        if name not in self.buffer.engines:
            return
        if self.buffer.engines[name].in_flight:
            with pytest.raises(ValueError, match="chunks run there still"):
                self.buffer.remove_engine(name)
        else:
            self.buffer.remove_engine(name)

    @rule(group=st.integers(0, 3), limit=st.integers(1, 30), whole=st.booleans())
    def submit(self, group: int, limit: int, whole: bool) -> None:
        sampling: dict[str, Any] = {"max_new_tokens": limit, **({"frequency_penalty": 1.0} if whole else {})}
        prompt = [1] * (1 + 3 * group)
        request = Request(len(self.made), f"g{group}", len(self.made), prompt, plan(sampling, tokenizer=True), 0)
        self.made.append(request)
        self.buffer.submit(request)
        self._waits(request)

    def _waits(self, request: Request) -> None:
        self.passed[request.arrival] = 0
        self.found[request.arrival] = self.buffer.waiting

    @rule(doubted=st.sets(st.sampled_from(ENGINES), max_size=1))
    def assign(self, doubted: set[str]) -> None:
        for arrival, passed in self.passed.items():
            if not passed:
                self.found[arrival] = self.buffer.waiting
        for one in self.buffer.assign(doubted):
            request = one.request
            assert one.engine in self.buffer.up and one.engine not in doubted
            left = request.plan.limit - len(request.output_ids)
            assert one.tokens == (left if request.plan.whole else min(left, self.chunk))
            del self.passed[request.arrival]
            for arrival in self.passed:
                self.passed[arrival] += 1
        for engine in self.buffer.engines.values():
            assert engine.in_flight <= 3

    @precondition(lambda self: self.buffer.running)
    @rule(data=st.data(), broken=st.booleans())
    def end_chunk(self, data: st.DataObject, broken: bool) -> None:
        running = [one for one in self.made if one.engine is not None]
        request = data.draw(st.sampled_from(running))
        most = request.plan.chunk_tokens(len(request.output_ids), self.chunk)
        tokens = data.draw(st.integers(0, most - 1)) if broken else data.draw(st.integers(1, most))
        begun = len(request.output_ids)
        finished = not broken and (tokens < most or begun + most == request.plan.limit)
        assert request.engine is not None
        chunk = Chunk(
            engine=request.engine, tokens=tokens, end="broken" if broken else "length", input_tokens=request.length
        )
        ids = list(range(100 + begun, 100 + begun + tokens))
        self.buffer.chunk_ended(request, chunk, ids, [0.0] * tokens, finished=finished)
        if finished:
            self._leaves(request)
        else:
            self._waits(request)

    @precondition(lambda self: len(self.buffer))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.buffer.unfinished()))
        self.buffer.drop(request)
        self.passed.pop(request.arrival, None)
        self._leaves(request)

    @precondition(lambda self: self.buffer.waiting)
    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([one for one in self.buffer.unfinished() if one.engine is None]))
        self.buffer.restart(request)
        assert request.output_ids == ()
        self._waits(request)

    @rule()
    def new_weights(self) -> None:
        self.buffer.new_weights()

    def _leaves(self, request: Request) -> None:
        self.left[request.arrival] = self.left.get(request.arrival, 0) + 1

    @invariant()
    def exactly_once(self) -> None:
        there = {one.arrival for one in self.buffer.unfinished()}
        assert len(there) == len(self.buffer) == self.buffer.waiting + self.buffer.running
        assert there.isdisjoint(self.left)
        assert there.union(self.left) == set(range(len(self.made)))
        assert set(self.left.values()) <= {1}

    @invariant()
    def prefix_kept(self) -> None:
        for request in self.made:
            assert request.output_ids == tuple(range(100, 100 + len(request.output_ids)))
            assert len(request.logprobs) == len(request.output_ids) <= request.plan.limit

    @invariant()
    def reservations_add_up(self) -> None:
        for name, engine in self.buffer.engines.items():
            here = [one for one in self.made if one.engine == name]
            groups = {one.group: [two for two in here if two.group == one.group] for one in here}
            assert engine.in_flight == len(here) == len(self.buffer.on_engine(name))
            if not here:
                assert (engine.reserved_tokens, engine.prompt_tokens) == (0, 0)
            assert engine.reserved_tokens == engine.prompt_tokens + sum(one.reserved_tokens for one in here)
            assert (engine.prompt_tokens > 0) == bool(groups)

    @invariant()
    def nobody_starves(self) -> None:
        for arrival, passed in self.passed.items():
            assert passed <= STARVATION_LIMIT + self.found[arrival]


BufferMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
test_the_buffer = BufferMachine.TestCase


def passed_by(most: int) -> int:
    """How often others go before the last of the order while long ones keep coming; at most `most`."""
    lengths = ContextLengths()
    for _ in range(8):
        lengths.finish("short", 2, limit_tokens=30)
    buffer = RequestBuffer(lengths, chunk_tokens=8, rules=Rules(starvation_limit=STARVATION_LIMIT))
    buffer.add_engine("a", capacity_tokens=100, slots=1)

    def submit(number: int, group: str) -> Request:
        request = Request(number, group, number, [1], plan({"max_new_tokens": 30}, tokenizer=True), 0)
        buffer.submit(request)
        return request

    last = submit(0, "short")
    for number in range(1, most + 1):
        submit(number, f"long {number}")
        (one,) = buffer.assign()
        if one.request is last:
            return number - 1
        chunk = Chunk(engine="a", tokens=8, end="stop", input_tokens=1)
        buffer.chunk_ended(one.request, chunk, [7] * 8, None, finished=True)
    return most


def test_the_last_of_the_order_has_its_turn() -> None:
    # One long request was there before each pass.
    assert 0 < passed_by(100) <= STARVATION_LIMIT + 1


def test_without_the_starvation_guard_it_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr(WaitingQueue, "_note_overdue", lambda self, admitted: None)
    assert passed_by(100) == 100


def test_what_an_engine_refused_is_asked_again_once_something_changed() -> None:
    """A request that waits for memory is placed as soon as there is some, and not computed over and over until then."""
    buffer = RequestBuffer(ContextLengths(), chunk_tokens=50)
    buffer.add_engine("a", capacity_tokens=70, slots=3)
    for number in range(2):
        sampling = {"max_new_tokens": 50, "ignore_eos": True}
        buffer.submit(Request(number, f"g{number}", 0, [1], plan(sampling, tokenizer=True), 0))
    (first,) = buffer.assign()
    assert buffer.assign() == [] and buffer.assign() == []
    chunk = Chunk(engine="a", tokens=50, end="length", input_tokens=1)
    buffer.chunk_ended(first.request, chunk, [7] * 50, None, finished=True)
    assert [one.request.arrival for one in buffer.assign()] == [1]


FAULTS = st.sampled_from(["kill", "start", "hang", "error", "garbage", "backwards", "short", "abort", None])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    faults=st.lists(st.tuples(st.integers(0, 1), FAULTS, st.floats(0.0, 0.2)), max_size=8),
    cancelled=st.integers(0, 5),
    incremental=st.booleans(),
)
def test_any_faults_on_two_of_three_engines(
    faults: list[tuple[int, str | None, float]], cancelled: int, incremental: bool
) -> None:
    wanted = prompts(10)

    async def disturb(controller: RolloutController, engines: list[Stub]) -> None:
        for place, fault, pause_s in faults:
            engine = engines[place]
            if fault == "kill":
                await engine.kill()
            elif fault == "start":
                if not engine.serving:
                    await engine.start()
            else:
                engine.behaviour.fault = fault
            await asyncio.sleep(pause_s)
        controller.cancel(f"g{cancelled}")

    async def run() -> None:
        async with stubs(3, seconds_per_token=0.002, incremental=incremental) as engines:
            # Far more chances than faults: only what is refused or cancelled ends before its time.
            options = {"fruitless": 1000, "health_s": 0.3, "stalled_s": 2.0}
            samples, _ = await disturbed(engines, wanted, disturb, **options)
        assert_undisturbed([one for one in samples if one.finish_reason != "cancelled"], wanted, allow_missing=True)
        assert len(samples) == 40
        assert {one.group for one in samples if one.finish_reason == "cancelled"} <= {f"g{cancelled}"}

    asyncio.run(asyncio.wait_for(run(), 300.0))
