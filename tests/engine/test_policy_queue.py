"""The policy keeps exactly the queue's requests, whatever SGLang does to the queue between two passes.

The policy object is the real one on SGLang's real base class; requests carry only what it reads.
"""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sglang_seer.context import ContextLengths
from sglang_seer.engine.policy import WAITING, SeerSchedulePolicy
from sglang_seer.engine.requests import RequestStates
from sglang_seer.schedule import Rules
from sglang_seer.status import STATUS


class StockPolicy:
    """Stands for the configured stock policy object, whose attributes are taken over."""


class Request:
    """The attributes of SGLang's Req that the policy reads."""

    def __init__(self, number: int, group: int, limit: int) -> None:
        self.rid = str(number)
        self.origin_input_ids_unpadded = array("q", [group, 1, 2])
        self.output_ids = array("q")
        self.sampling_params = SimpleNamespace(custom_params=None, max_new_tokens=limit)


@pytest.fixture(autouse=True, scope="module")
def _without_prefix_matching() -> Any:
    # SGLang's own part of a pass needs a live cache; the queue's order is ours.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SeerSchedulePolicy.__mro__[1], "calc_priority", lambda *_arguments: None)
        yield


class QueueMachine(RuleBasedStateMachine):
    """Joins, admissions from head and middle, aborts, retractions, finishes, flushes, in any order."""

    @initialize()
    def start(self) -> None:
        self.lengths = ContextLengths()
        self.policy = SeerSchedulePolicy(StockPolicy(), RequestStates(0), self.lengths, rules=Rules(starvation_limit=5))
        self.queue: list[Request] = []
        self.running: list[Request] = []
        self.made = 0

    @rule(group=st.integers(0, 3), limit=st.sampled_from([0, 10, 20]))
    def join(self, group: int, limit: int) -> None:
        self.made += 1
        self.queue.append(Request(self.made, group, limit))

    @precondition(lambda self: self.queue)
    @rule(data=st.data(), from_head=st.booleans())
    def admit(self, data: st.DataObject, from_head: bool) -> None:
        count = data.draw(st.integers(1, len(self.queue)))
        chosen = self.queue[:count] if from_head else data.draw(st.permutations(self.queue))[:count]
        self.queue = [request for request in self.queue if request not in chosen]  # a new list, as SGLang makes one
        self.running += chosen

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), generated=st.integers(0, 3))
    def retract(self, data: st.DataObject, generated: int) -> None:
        request = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        request.output_ids.extend(range(generated))
        self.queue.append(request)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), length=st.integers(1, 20))
    def finish(self, data: st.DataObject, length: int) -> None:
        request = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.lengths.finish(f"group{request.origin_input_ids_unpadded[0]}", length)

    @rule()
    def flush(self) -> None:
        self.lengths.clear()

    @rule()
    def schedule(self) -> None:
        before, decisions = list(self.queue), STATUS.counters["decisions"]
        self.policy.calc_priority(self.queue, SimpleNamespace(reqs=self.running))
        assert len(self.queue) == len(before)
        assert {id(request) for request in self.queue} == {id(request) for request in before}
        if STATUS.counters["decisions"] > decisions:  # else nothing but the head left, and the order stands
            held = [entry.handle for members in self.policy._waiting.by_group.values() for entry in members]
            alive = [request for request in self.queue if request.sampling_params.max_new_tokens > 0]
            assert sorted(map(id, held)) == sorted(map(id, alive))

    @invariant()
    def entries_and_attributes_agree(self) -> None:
        for members in self.policy._waiting.by_group.values():
            for entry in members:
                assert entry.handle.__dict__[WAITING] is entry


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_a_tail_that_left_and_came_back_is_no_sign_of_peace() -> None:
    """The last request is admitted and retracted while another is aborted: same tail, same size, other requests."""
    machine = QueueMachine()
    machine.start()
    stays, returns = Request(1, 0, 10), Request(2, 1, 10)
    machine.queue = [stays, returns]
    machine.schedule()
    tail = machine.queue[-1]
    other = machine.queue[0]
    machine.queue.clear()  # `other` was aborted, `tail` admitted
    machine.lengths.finish("g", 3)
    machine.queue.append(tail)
    machine.schedule()
    assert machine.queue == [tail] and other is not tail
