"""The observer beside a scheduler that is none: what it notes, what it leaves alone, and what it may take."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_seer.config import SeerConfig
from sglang_seer.context import ContextLengths
from sglang_seer.engine import hooks
from sglang_seer.engine.observer import DRAFT_SHARE, TIMED_EVERY, TIMED_STEPS, Observer
from sglang_seer.engine.policy import SeerSchedulePolicy
from sglang_seer.engine.requests import RequestStates
from sglang_seer.observe.allowance import Allowance
from sglang_seer.observe.record import Record, decode
from sglang_seer.schedule import Rules
from sglang_seer.status import STATUS


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Request:
    """What the observer looks at of one."""

    def __init__(self, prompt: list[int], *, arrived_s: float, rid: str = "r", limit: int = 50) -> None:
        self.rid = rid
        self.origin_input_ids = self.origin_input_ids_unpadded = array("q", prompt)
        self.output_ids = array("q")
        self.sampling_params = SimpleNamespace(custom_params=None, max_new_tokens=limit)
        self.time_stats = SimpleNamespace(wait_queue_entry_time=arrived_s)
        self.retraction_count = 0
        self.finished_reason: object = None

    def finished(self) -> bool:
        return self.finished_reason is not None


def mode(name: str) -> Any:
    return SimpleNamespace(
        is_decode=lambda: name == "decode", is_extend=lambda: name != "decode", is_mixed=lambda: name == "mixed"
    )


def batch(requests: list[Request], name: str = "decode") -> Any:
    extended = [len(request.origin_input_ids) for request in requests]
    return SimpleNamespace(reqs=requests, forward_mode=mode(name), extend_lens=extended)


class StockPolicy:
    pass


class Room:
    """An observer, its scheduler, and what hooks do between `begin` and `end`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.states, self.lengths = RequestStates(0), ContextLengths()
        self.scheduler = SimpleNamespace(
            schedule_policy="fcfs",
            spec_algorithm=SimpleNamespace(is_none=lambda: True),
            max_total_num_tokens=1000,
            max_running_requests=8,
            model_config=SimpleNamespace(vocab_size=100),
            waiting_queue=[],
            running_batch=SimpleNamespace(reqs=[]),
        )
        self.policy = SeerSchedulePolicy(StockPolicy(), self.states, self.lengths, rules=Rules())
        self.observer = Observer(
            self.scheduler, self.policy, self.states, self.lengths, None, would_refuse=[], clock=self.clock
        )

    def step(self, what: Any, seconds: float = 1.0) -> list[Request]:
        self.clock.now_s += seconds
        news = self.observer.begin(what)
        for request in news:
            state = self.states.of(request)
            if state.expected_tokens is None:
                state.expected_tokens = 1.0
                self.observer.joined(request, state)
            if request.finished():
                self.observer.ended(request, state, len(request.output_ids))
        self.observer.end(self.scheduler, what)
        return news

    def record(self) -> Record:
        return decode(self.observer.record())


@pytest.fixture
def room() -> Room:
    return Room()


def test_one_response_from_its_arrival_to_its_end(room: Room) -> None:
    one = Request([1, 2, 3], arrived_s=99.0)
    assert room.step(batch([one], "extend")) == [one]
    one.output_ids.append(7)
    # Nothing new of it: it is not looked at again.
    assert room.step(batch([one])) == []
    one.output_ids.append(8)
    one.finished_reason = object()
    one.retraction_count = 2
    assert room.step(batch([one])) == [one]
    (window,) = room.record().windows
    (response,) = window.responses
    assert (response.arrived_s, response.first_s, response.ended_s) == (0.0, 2.0, 4.0)
    assert (response.prompt_tokens, response.tokens, response.limit_tokens, response.retractions) == (3, 2, 50, 2)


def test_a_request_that_was_seen_waiting_is_news_when_it_runs(room: Room) -> None:
    waiting = [Request([number, 1], arrived_s=99.0) for number in range(3)]
    room.scheduler.waiting_queue = list(waiting)
    room.step(batch([Request([9], arrived_s=99.0)], "extend"))
    room.scheduler.waiting_queue = []
    assert room.step(batch(waiting, "extend")) == waiting
    assert room.record().windows[-1].running >= 3


def test_health_checks_and_requests_that_generate_nothing_are_none(room: Room) -> None:
    room.step(
        batch([Request([1], arrived_s=99.0, rid="HEALTH_CHECK_17"), Request([1], arrived_s=99.0, limit=0)], "extend")
    )
    (window,) = room.record().windows
    assert (window.running, window.aborted, window.responses) == (0, 0, [])


def test_a_queue_in_another_order_is_counted_and_stays(room: Room) -> None:
    """Three groups of three: Seer would try one of each first."""
    queue = [Request([group], arrived_s=99.0) for group in range(3) for _ in range(3)]
    room.scheduler.waiting_queue = list(queue)
    before = dict(STATUS.counters)
    room.step(batch([Request([9], arrived_s=99.0)], "extend"))
    assert room.scheduler.waiting_queue == queue
    assert STATUS.counters["decisions"] == before.get("decisions", 0) + 1
    assert STATUS.counters["reordered"] == before.get("reordered", 0) + 1
    # Negative control: a queue in which Seer's order is that of arrival.
    room.scheduler.waiting_queue = [Request([50 + group], arrived_s=99.0) for group in range(3)]
    room.step(batch([], "decode"), seconds=1000.0)
    assert STATUS.counters["decisions"] == before.get("decisions", 0) + 2
    assert STATUS.counters["reordered"] == before.get("reordered", 0) + 1


def test_steps_are_timed_where_nothing_came_between(room: Room) -> None:
    running = [Request([1, 2, 3], arrived_s=99.0) for _ in range(2)]
    room.step(batch(running, "extend"), seconds=5.0)  # since when, nobody knows
    assert room.record().steps == []
    room.step(batch(running), seconds=0.25)
    (decode_step,) = room.record().steps
    assert (decode_step.batch, decode_step.rows, decode_step.context) == (2, 2, 6)
    assert decode_step.seconds == pytest.approx(0.25)
    room.step(batch(running, "extend"), seconds=0.5)
    assert {(one.rows, round(one.seconds, 3)) for one in room.record().steps} == {(2, 0.25), (6, 0.5)}
    room.observer.idle()
    room.step(batch(running), seconds=9.0)
    room.step(batch(running, "mixed"), seconds=9.0)
    assert {round(one.seconds, 3) for one in room.record().steps} == {0.25, 0.5}


def test_after_many_steps_only_some_are_timed(room: Room) -> None:
    running = [Request([1], arrived_s=99.0)]
    for _ in range(TIMED_STEPS + 1 + 10 * TIMED_EVERY):
        room.step(batch(running), seconds=0.01)
    assert room.observer.status()["timed_steps"] == TIMED_STEPS + 10


def ended(prompt: list[int], tokens: int) -> Request:
    one = Request(prompt, arrived_s=99.0)
    one.output_ids.extend(range(tokens))
    one.finished_reason = object()
    return one


@pytest.mark.parametrize("bounded", [True, False])
def test_replays_take_their_share_and_no_more(room: Room, monkeypatch: pytest.MonkeyPatch, bounded: bool) -> None:
    """A look at them takes 10 ms here; a step 50 ms. The negative control has nobody who asks whether there is time."""
    if not bounded:
        monkeypatch.setattr(Allowance, "open", True)
    drafts = room.observer._drafts
    taken = [0.0]

    def work(seconds: float, clock: Any) -> None:
        room.clock.now_s += 0.01
        taken[0] += 0.01

    monkeypatch.setattr(drafts, "work", work)
    room.step(batch([ended([1, 2], 20)]))
    began_s = room.clock.now_s
    for _ in range(1000):
        room.step(batch([]), seconds=0.05)
    share = (taken[0] - 0.01) / (room.clock.now_s - began_s)
    assert (share <= 1.1 * DRAFT_SHARE) is bounded
    # What it took is said.
    assert room.observer.status()["cost_share"] == pytest.approx(share, rel=0.2)


def test_idle_engines_replay_what_waits_and_flushes_end_the_window(room: Room) -> None:
    for _ in range(2):
        room.step(batch([ended([1, 2], 20)]))
    while not room.observer._drafts.idle:
        room.observer.idle()
    alone, beside = room.record().drafts
    assert (alone.tokens, beside.tokens) == (19, 19)
    assert beside.steps <= 4 < alone.steps
    room.observer.flushed()
    room.step(batch([ended([1, 2], 20)]))
    while not room.observer._drafts.idle:
        room.observer.idle()
    # Another window: a sibling of the old weights is none.
    assert room.record().drafts[0].tokens == 2 * 19
    assert [len(window.responses) for window in room.record().windows] == [2, 1]


def test_an_error_of_the_observer_leaves_the_engine_alone(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the watching, once and with a reason; without the guard the error would reach the scheduler."""

    def fail(_batch: Any) -> list[Any]:
        raise KeyError(7)

    monkeypatch.setattr(room.observer, "begin", fail)
    watching = hooks.SchedulerState(
        config=SeerConfig(), states=room.states, lengths=room.lengths, policy=room.policy, observer=room.observer
    )
    monkeypatch.setattr(hooks, "_state", watching)
    monkeypatch.setattr(STATUS, "reasons", [])
    monkeypatch.setattr(STATUS, "sources", {"observed": room.observer.status})
    for _ in range(2):
        hooks.process_batch_result(None, room.scheduler, batch([]), None)
    assert STATUS.reasons == ["observing failed: KeyError: 7"]
    assert hooks._state is None and "observed" not in hooks.live_status()
    # A scheduler that Seer runs in hides no error.
    monkeypatch.setattr(watching, "observer", None)
    monkeypatch.setattr(hooks, "_state", watching)
    room.scheduler.draft_worker = None
    with pytest.raises(AttributeError):
        hooks.process_batch_result(None, room.scheduler, batch([object()]), None)  # type: ignore[list-item]
