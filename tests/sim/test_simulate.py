"""Whole rollouts: nothing is lost, nothing happens twice, memory is kept, and what is known in closed form holds."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_seer.sim import POLICIES, Cluster, Failure, Result, cluster, simulate
from sglang_seer.sim.acceptance import Acceptance, paper
from sglang_seer.sim.instance import Instance
from sglang_seer.sim.policy import Policy
from sglang_seer.sim.request import Request
from sglang_seer.sim.static import StockQueue
from tests.sim import made

WHOLE = [name for name, policy in POLICIES.items() if policy.issued == 1]


class Watched(Instance):
    """An instance that checks its own books against its requests after every change."""

    def check(self) -> None:
        by_hand = sum(
            request.prompt_tokens + self._counters[request.kind] - request.mark for request in self.running.values()
        )
        assert math.isclose(self.kv_tokens, by_hand, abs_tol=1e-6)
        assert self.kv_tokens <= self.profile.kv_capacity_tokens + 1e-6

    def advance(self, steps: int) -> None:
        assert self.alive
        super().advance(steps)
        self.check()

    def leave(self, request: Request) -> int:
        made_tokens = super().leave(request)
        self.check()
        return made_tokens


def run(
    monkeypatch: pytest.MonkeyPatch, where: Cluster, policy: Policy, what: list[Request]
) -> tuple[Result, list[Watched]]:
    seen: list[Watched] = []

    def watched(*args: Any) -> Watched:
        seen.append(Watched(*args))
        return seen[-1]

    monkeypatch.setattr(cluster, "Instance", watched)
    return simulate(where, policy, what), seen


groups_of = st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=6), min_size=1, max_size=8)


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=25, deadline=None)
@given(groups=groups_of, data=st.data())
def test_every_request_finishes_once_and_tokens_and_kv_are_conserved(
    name: str, groups: list[list[int]], data: Any
) -> None:
    instances = data.draw(st.integers(1, 4))
    failures = data.draw(
        st.lists(st.builds(Failure, st.integers(0, instances - 1), st.floats(0, 300), st.floats(0, 100)), max_size=3)
    )
    where = made.cluster(
        instances,
        kv_capacity_tokens=data.draw(st.integers(130, 600)),
        acceptance=paper(),
        failures=tuple(failures),
        slow={0: data.draw(st.sampled_from([1.0, 3.0]))},
        chunk_tokens=data.draw(st.sampled_from([1, 7, 64])),
    )
    what = made.requests(groups, limit=90, prompt=data.draw(st.integers(0, 20)))
    late = data.draw(st.floats(0, 200))
    for request in what[len(what) // 2 :]:
        request.arrives_s = late
    with pytest.MonkeyPatch.context() as patch:
        result, seen = run(patch, where, POLICIES[name], what)
    assert len(result.finish_s) == len(what)
    assert all(request.tokens == request.length_tokens for request in what)
    assert all(request.arrives_s < request.finished_s <= result.seconds for request in what)
    total = sum(map(sum, groups))
    assert result.tokens == total
    assert result.counts.generated_tokens == total + result.counts.lost_tokens
    assert all(not instance.running and instance.kv_tokens == 0 for instance in seen)
    if POLICIES[name].divided:
        assert result.counts.retractions == 0
    if not failures:
        assert result.counts.lost_tokens == 0


@pytest.mark.parametrize("name", ["fcfs", "seer-engine", "seer"])
def test_later_requests_join_between_two_steps(name: str) -> None:
    """Steps of a second: the one that arrives at 2.5 joins at 3, the one that finds an empty engine joins at once."""
    what = made.requests([[5], [4], [3]])
    what[1].arrives_s, what[2].arrives_s = 2.5, 100.5
    simulate(made.cluster(), POLICIES[name], what)
    assert [request.finished_s for request in what] == [5.0, 7.0, 103.5]


def test_siblings_in_one_engine_draft_for_those_that_join_later() -> None:
    """Whoever joins when siblings have finished is drafted for at once, and not only from the next finish on."""
    groups = [[20] * 8]
    where = made.cluster(max_running=4, acceptance=Acceptance({0: 1.0, 4: 4.0}))
    plain = simulate(where, POLICIES["seer-engine"], made.requests(groups))
    drafted = simulate(where, POLICIES["seer-engine-spec"], made.requests(groups))
    assert plain.seconds == 40.0
    # 20 steps without siblings, 5 with four.
    assert drafted.seconds == pytest.approx(25.0, abs=1.0)


def test_a_lost_token_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the property above: retracted requests that start from nothing break the books."""
    leave = Instance.leave

    def forget(self: Instance, request: Request) -> int:
        made_tokens = leave(self, request)
        if request.tokens < request.length_tokens:
            request.tokens = 0
        return made_tokens

    monkeypatch.setattr(Instance, "leave", forget)
    what = made.requests([[9000] * 6], limit=20_000)
    result = simulate(made.cluster(kv_capacity_tokens=36_000), POLICIES["fcfs"], what)
    assert result.counts.retractions > 0
    assert result.counts.generated_tokens != result.tokens + result.counts.lost_tokens


def test_retractions_count_whole_tokens_as_they_are_kept() -> None:
    """Of drafts: several tenths of a token a step, whose float sum is a whole token less a rounding error."""
    what = made.requests([[58, 23, 63, 3, 51], [24, 1], [6, 1, 1], [62, 1, 1]], limit=90)
    where = made.cluster(kv_capacity_tokens=130, acceptance=paper())
    result = simulate(where, POLICIES["seer-engine-spec"], what)
    assert result.counts.retractions > 0
    assert result.counts.generated_tokens == result.tokens


def test_retractions_keep_their_tokens() -> None:
    what = made.requests([[9000] * 6], limit=20_000)
    result = simulate(made.cluster(kv_capacity_tokens=36_000), POLICIES["fcfs"], what)
    assert result.counts.retractions > 0
    assert result.counts.generated_tokens == result.tokens == 54_000
    assert result.counts.prefilled_again_tokens > 0


def test_memory_would_overflow_without_retraction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the KV bound: with retraction switched off the pool is over-committed."""
    monkeypatch.setattr(StockQueue, "retract", lambda self: [])
    monkeypatch.setattr(Instance, "_steps_to_overflow", lambda self: 1000)
    what = made.requests([[9000] * 6], limit=20_000)
    result = simulate(made.cluster(kv_capacity_tokens=36_000), POLICIES["fcfs"], what)
    assert result.peak_kv_tokens > 36_000


@pytest.mark.parametrize("name", ["fcfs", "lof", "verl", "streamrl-oracle", "divided", "seer-paper", "seer", "oracle"])
def test_equal_lengths_on_one_instance(name: str) -> None:
    """All fit: length steps of one second, after one prefill (one group, one prompt; none where there is no prompt)."""
    result = simulate(made.cluster(), POLICIES[name], made.requests([[50] * 8]))
    assert result.seconds == pytest.approx(50.0)
    assert result.tail_s == pytest.approx(0.0)
    assert result.tokens_per_s == pytest.approx(8.0)


def test_a_step_that_reads_kv() -> None:
    """n requests of L tokens: sum over steps of base + read * n * tokens = L base + read * n * L (L - 1) / 2."""
    step = made.FLAT.__class__(overhead_s=0.01, weights_s=0.02, row_s=0.001, context_s=1e-4)
    result = simulate(made.cluster(step=step), POLICIES["fcfs"], made.requests([[40] * 5]))
    assert result.seconds == pytest.approx(40 * 0.03 + 1e-4 * 5 * 40 * 39 / 2)
    cached = made.requests([[40] * 5], prompt=10)
    prefill = max(0.02, 0.001 * 10) + 0.01
    again = simulate(made.cluster(step=step), POLICIES["fcfs"], cached)
    assert again.seconds == pytest.approx(prefill + 40 * 0.03 + 1e-4 * 5 * (40 * 39 / 2 + 40 * 10))


def test_two_lengths_where_the_best_makespan_is_known() -> None:
    """Room for two at a time, one long and ten short: longest first ends with the long one, in the least time that
    any order can take; first come begins the long one last."""
    what = [[10] * 10, [100]]
    where = {"kv_capacity_tokens": 225, "chunk_tokens": 100}
    short_first = simulate(made.cluster(**where, max_running=2), POLICIES["lof"], made.requests(what, limit=100))
    best = simulate(made.cluster(**where), POLICIES["oracle"], made.requests(what, limit=100))
    assert best.seconds == pytest.approx(100.0)
    assert short_first.seconds == pytest.approx(150.0)


def test_speculation_divides_the_time_by_the_acceptance() -> None:
    step = made.FLAT
    where = made.cluster(step=step, chunk_tokens=1000, acceptance=Acceptance({0: 2.5}))
    plain = simulate(made.cluster(chunk_tokens=1000), POLICIES["seer"], made.requests([[500]]))
    drafted = simulate(where, POLICIES["seer-spec"], made.requests([[500]]))
    assert plain.seconds == pytest.approx(500.0)
    assert drafted.seconds == pytest.approx(200.0)


def test_finished_siblings_speed_up_the_others() -> None:
    """Ten tokens at one a step; then the sibling has finished, and the other 90 go at two a step."""
    where = made.cluster(chunk_tokens=1000, acceptance=Acceptance({0: 1.0, 1: 2.0}))
    result = simulate(where, POLICIES["seer-spec"], made.requests([[10, 100]]))
    assert result.seconds == pytest.approx(10 + 45)
    alone = simulate(where, POLICIES["seer-own-drafts"], made.requests([[10, 100]]))
    assert alone.seconds == pytest.approx(100)


def test_drafts_that_do_not_pay_are_not_made() -> None:
    """Where a row costs as much as a whole step, a draft of two accepted tokens in nine is a loss."""
    dear = made.FLAT.__class__(overhead_s=0.0, weights_s=0.0, row_s=1.0, context_s=0.0)
    where = made.cluster(step=dear, acceptance=Acceptance({0: 2.0}))
    result = simulate(where, POLICIES["seer-spec"], made.requests([[50]]))
    assert result.seconds == pytest.approx(50.0)


def test_moving_kv_takes_the_links_time() -> None:
    """Its instance fails at 20 s, at a chunk's end: 20 tokens of one byte go over a link of 2 bytes/s, 10 s."""
    where = made.cluster(2, chunk_tokens=20, link_bytes_s=2.0, failures=(Failure(0, 20.5, 1e6),))
    what = made.requests([[60]])
    result = simulate(where, POLICIES["divided"], what)
    lost = result.counts.lost_tokens
    # The prefill of the last token is one second of a flat profile.
    assert (lost, result.counts.migrations) == (1, 1)
    assert result.seconds == pytest.approx(21 + 10 + 1 + 40, abs=1.0)


def test_who_is_on_the_way_to_an_instance_that_fails_goes_elsewhere() -> None:
    """As before, but the second instance fails while the KV is on its way there: it goes to the third."""
    failures = (Failure(0, 20.5, 1e6), Failure(1, 26.0, 1e6))
    where = made.cluster(3, chunk_tokens=20, link_bytes_s=2.0, failures=failures)
    result = simulate(where, POLICIES["divided"], made.requests([[60]]))
    assert (result.counts.lost_tokens, result.counts.migrations) == (1, 2)
    assert result.seconds == pytest.approx(26 + 10 + 1 + 40, abs=1.0)


@pytest.mark.parametrize("name", WHOLE)
def test_the_same_seed_gives_the_same_run(name: str) -> None:
    def once() -> dict[str, Any]:
        where = made.cluster(3, kv_capacity_tokens=300, acceptance=paper(), failures=(Failure(1, 30.0, 20.0),))
        return simulate(where, POLICIES[name], made.requests([[5, 80, 33], [70, 61, 2], [9, 9, 90, 44]])).as_json()

    assert once() == once()


def test_a_straggler_is_slow() -> None:
    result = simulate(made.cluster(slow={0: 3.0}), POLICIES["seer"], made.requests([[50] * 2]))
    assert result.seconds == pytest.approx(150.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: made.cluster(0), "instances: got 0"),
        (lambda: made.cluster(chunk_tokens=0), "chunk_tokens: got 0"),
        (lambda: made.cluster(slow={2: 2.0}), "got instance 2, wanted 0 to 0"),
        (lambda: Failure(0, -1.0, 0.0), "wanted an instance from 0"),
        (lambda: simulate(made.cluster(), POLICIES["fcfs"], []), "requests: got none"),
        (lambda: simulate(made.cluster(), POLICIES["fcfs"], made.requests([[5000]])), "can grow to 5000"),
        (lambda: simulate(made.cluster(), POLICIES["fcfs"], made.requests([[5]]) * 2), "got index 0 at place 1"),
        (lambda: simulate(made.cluster(slow={0: 0.0}), POLICIES["fcfs"], made.requests([[5]])), "slow: got 0.0"),
        (lambda: Request(0, "g", 0, 10, 9), "limit_tokens: got 9, wanted at least its length, 10"),
        (lambda: Request(0, "g", 0, 0, 9), "length_tokens: got 0"),
        (
            lambda: simulate(made.cluster(), POLICIES["fcfs"], made.requests([[5]]), stop_after_groups=2),
            "stop_after_groups: got 2",
        ),
    ],
)
def test_impossible_input(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change()
