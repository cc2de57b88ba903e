"""The incremental queue answers as decide() does, over long random rollouts, and its invariants hold at every step."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from sglang_seer.context import ContextLengths, LengthModel, LongestSibling
from sglang_seer.schedule import Decision, Rules, Waiting, WaitingQueue, decide

LIMIT = 400
GROUP_SIZE = 6
MOST_AT_ONCE = 3


class Rollout:
    """Requests that join, run, yield at chunk boundaries, finish, get lost, under weights that change now and then."""

    def __init__(self, seed: int, make: Callable[[], LengthModel], queue_type: type[WaitingQueue]) -> None:
        self.rng = random.Random(seed)
        self.rules = Rules(starvation_limit=self.rng.choice([3, 12, 40, 10_000]))
        self.lengths = make()
        self.queue = queue_type(self.lengths, self.rules)
        self.waiting: dict[int, Waiting] = {}
        self.running: dict[int, Waiting] = {}
        self.typical: dict[str, float] = {}
        self.made = self.admitted = self.finished = self.lost = 0
        # Of those that wait: how many may still be admitted before them.
        self.patience: dict[int, int] = {}

    def step(self) -> None:
        events = [self.join, self.admit, self.admit, self.advance, self.advance, self.abort, self.vanish]
        if self.rng.random() < 0.002:
            self.lengths.clear()
        self.rng.choice(events)()
        self.check(self.queue.decide(self.counts(), self.admitted))

    def counts(self) -> Mapping[str, int]:
        return Counter(entry.group for entry in self.running.values())

    def wait(self, entry: Waiting) -> None:
        for other in self.waiting.values():
            self.patience[other.arrival] += other.admitted_before == self.admitted and other.arrival > entry.arrival
        # A decision serves for a few admissions.
        self.patience[entry.arrival] = self.rules.starvation_limit + len(self.waiting) + MOST_AT_ONCE - 1
        self.waiting[entry.arrival] = entry
        self.queue.add(entry)

    def leave(self, arrival: int) -> Waiting:
        entry = self.waiting.pop(arrival)
        del self.patience[arrival]
        self.queue.remove(entry)
        return entry

    def join(self) -> None:
        if len(self.waiting) > 30:
            return
        for _ in range(self.rng.randint(1, GROUP_SIZE)):
            group = f"g{self.made // GROUP_SIZE}"
            self.typical.setdefault(group, self.rng.lognormvariate(4, 0.8))
            self.wait(Waiting(self.made, group, 0, LIMIT, self.admitted))
            self.made += 1

    def admit(self) -> None:
        decision = self.queue.decide(self.counts(), self.admitted)
        for entry in list(decision.order[: self.rng.randint(1, MOST_AT_ONCE)]):
            self.running[entry.arrival] = self.leave(entry.arrival)
            self.admitted += 1
            for left in self.patience:
                self.patience[left] -= 1

    def advance(self) -> None:
        """A running request finishes, or comes to the end of its chunk and waits again."""
        if not self.running:
            return
        arrival = self.rng.choice(sorted(self.running))
        entry = self.running.pop(arrival)
        more = self.rng.randint(1, 60)
        tokens = min(entry.generated_tokens + more, LIMIT)
        if tokens == LIMIT or self.rng.random() < more / self.typical[entry.group]:
            self.finished += 1
            self.lengths.finish(entry.group, tokens, member=arrival, limit_tokens=LIMIT)
            return
        self.lengths.progress(entry.group, arrival, tokens)
        if self.rng.random() < 0.5:
            self.wait(entry._replace(generated_tokens=tokens, admitted_before=self.admitted))
        else:
            self.running[arrival] = entry._replace(generated_tokens=tokens)

    def abort(self) -> None:
        if not self.waiting or self.rng.random() < 0.8:
            return
        entry = self.leave(self.rng.choice(sorted(self.waiting)))
        self.lengths.lost(entry.group, entry.arrival)
        self.lost += 1

    def vanish(self) -> None:
        """A running request goes, and nobody tells the model."""
        if self.running and self.rng.random() < 0.5:
            del self.running[self.rng.choice(sorted(self.running))]
            self.lost += 1

    def check(self, decision: Decision) -> None:
        wanted = decide(self.queue.snapshot(self.counts(), self.admitted), self.rules)
        assert decision == wanted
        assert sorted(decision.order) == sorted(self.waiting.values())
        assert len(self.queue) == len(self.waiting)
        assert self.made == len(self.waiting) + len(self.running) + self.finished + self.lost
        overdue = {
            entry.arrival
            for entry in self.waiting.values()
            if self.admitted - entry.admitted_before >= self.rules.starvation_limit
        }
        assert {entry.arrival for entry in decision.order[: decision.overdue]} == overdue
        assert all(left >= 0 for left in self.patience.values()), "passed by more often than the bound says"


def play(seed: int, steps: int, make: Callable[[], LengthModel], queue_type: type[WaitingQueue]) -> Rollout:
    rollout = Rollout(seed, make, queue_type)
    for _ in range(steps):
        rollout.step()
    return rollout


@pytest.mark.parametrize("make", [LongestSibling, ContextLengths])
def test_ten_thousand_steps_of_each_model_keep_every_invariant(make: Callable[[], LengthModel]) -> None:
    for seed in range(5):
        rollout = play(seed, 2000, make, WaitingQueue)
        assert rollout.finished > 200


@pytest.mark.parametrize("make", [LongestSibling, ContextLengths])
def test_rollouts_end_with_every_request_finished_once(make: Callable[[], LengthModel]) -> None:
    rollout = play(1, 500, make, WaitingQueue)
    while rollout.waiting or rollout.running:
        rollout.rng.choice([rollout.admit, rollout.advance])()
    assert rollout.finished + rollout.lost == rollout.made and len(rollout.queue) == 0
    assert not rollout.queue.decide({}, rollout.admitted).order


class DeafToRunning(WaitingQueue):
    def _note_running(self, running: Mapping[str, int]) -> None:
        self._running = dict(running)


class DeafToLengths(WaitingQueue):
    def _groups_to_place(self) -> set[str]:
        return {group for group in self._dirty if group in self._by_group or group in self._placed}


class Starving(WaitingQueue):
    def _note_overdue(self, admitted: int) -> None:
        return


class Hasty(WaitingQueue):
    """Takes every group for a plain one but for what it is told to look at."""

    looks_at: frozenset[str] = frozenset()

    def _plain(self) -> list[str]:
        found = {
            "kind": {group for group, kind in self._kind.items() if kind is None},
            "running": {*self._running},
            "late": {*self._late},
            "told": {group for group in self._by_group if not self._lengths.untold(group)},
        }
        return [group for group in self._by_group if not any(group in found[what] for what in self.looks_at)]


class BlindToKind(Hasty):
    looks_at = frozenset({"running", "late", "told"})


class BlindToRunning(Hasty):
    looks_at = frozenset({"kind", "late", "told"})


class BlindToLate(Hasty):
    looks_at = frozenset({"kind", "running", "told"})


class BlindToTold(Hasty):
    looks_at = frozenset({"kind", "running", "late"})


@pytest.mark.parametrize("broken", [DeafToRunning, DeafToLengths, Starving, BlindToRunning, BlindToLate, BlindToTold])
def test_a_queue_that_misses_a_change_is_caught(broken: type[WaitingQueue]) -> None:
    with pytest.raises(AssertionError):
        for seed in range(12):
            play(seed, 500, ContextLengths, broken)


def test_members_of_several_kinds_are_told_apart() -> None:
    def first_decision(queue_type: type[WaitingQueue]) -> tuple[Decision, Decision]:
        queue = queue_type(LongestSibling())
        for arrival in range(8):
            # The second group's long one comes at another place.
            queue.add(Waiting(arrival, f"g{arrival // 4}", 0, 900 if arrival in (1, 6) else LIMIT, 0))
        return queue.decide({}, 0), decide(queue.snapshot({}, 0))

    decision, wanted = first_decision(WaitingQueue)
    assert decision == wanted and len(decision.blocks) == 4
    with pytest.raises(ValueError, match="unpack"):
        first_decision(BlindToKind)


def test_queues_refuse_doubles_and_strangers() -> None:
    queue = WaitingQueue(LongestSibling())
    entry = Waiting(1, "a", 0, LIMIT, 0)
    queue.add(entry)
    with pytest.raises(ValueError, match="waits already"):
        queue.add(entry)
    queue.remove(entry)
    assert len(queue) == 0 and not queue.by_group
    with pytest.raises(ValueError, match="does not wait"):
        queue.remove(entry)
