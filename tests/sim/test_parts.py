"""Profiles, workloads, acceptance, placement and stock's queue, each against something written out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sglang_seer.sim import acceptance, builtin, profile, workload
from sglang_seer.sim.acceptance import Acceptance
from sglang_seer.sim.instance import Instance
from sglang_seer.sim.lengths_queue import LengthsQueue
from sglang_seer.sim.policy import POLICIES, Order, Placement
from sglang_seer.sim.profile import Profile, StepPoint, StepTime
from sglang_seer.sim.rollout import partial_rollout
from sglang_seer.sim.static import StockQueue, assigned
from sglang_seer.sim.workload import PAPER, Workload
from tests.sim import made


def test_a_built_in_profile_by_hand() -> None:
    """Qwen2-VL-72B, TP8 on H800: 80 layers x 8 KV heads x 128 x 2 x 2 bytes; half of memory less 145 GB of weights."""
    one = builtin.profile("Qwen2-VL-72B")
    assert one.kv_bytes_per_token == 327_680
    assert one.kv_capacity_tokens == int((8 * 80 * 2**30 * 0.5 - 2 * 72.7e9) / 327_680)
    assert one.step.weights_s == pytest.approx(145.4e9 / (8 * 3.35e12 * 0.8))
    assert builtin.profile("Kimi-K2").kv_bytes_per_token == 61 * 576 * 2
    assert builtin.profile("Kimi-K2", "H200").kv_capacity_tokens > builtin.profile("Kimi-K2").kv_capacity_tokens


@pytest.mark.parametrize("model", builtin.MODELS)
@pytest.mark.parametrize("gpu", builtin.GPUS)
def test_built_in_profiles_survive_their_file(model: str, gpu: str, tmp_path: Path) -> None:
    one = builtin.profile(model, gpu)
    assert "config.json" in one.source and "data sheet" in one.source
    kept = tmp_path / "profile.json"
    kept.write_bytes(msgspec.json.encode(one))
    assert profile.read(kept) == one


def test_the_fit_finds_a_roofline() -> None:
    true = StepTime(overhead_s=0.002, weights_s=0.008, row_s=1e-4, context_s=2e-8)
    points = [
        StepPoint(rows=rows, context=context, seconds=true.seconds(rows, context))
        for rows in (1, 8, 40, 80, 160, 320)
        for context in (0, 100_000, 1_000_000)
    ]
    found = profile.fit(points)
    for rows, context in ((4, 50_000), (80, 10), (240, 400_000)):
        assert found.seconds(rows, context) == pytest.approx(true.seconds(rows, context), rel=1e-3)


def _written(tmp_path: Path, **changes: Any) -> Path:
    fields = msgspec.to_builtins(made.profile()) | changes
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_capacity_tokens": 0}, "kv_capacity_tokens: got 0, wanted at least 1"),
        ({"link_bytes_s": -1.0}, "link_bytes_s: got -1.0"),
        ({"step": {"overhead_s": -1.0, "weights_s": 0, "row_s": 0, "context_s": 0}}, "step.overhead_s: got -1.0"),
        ({"step": {"overhead_s": 0, "weights_s": 0, "row_s": 0, "context_s": 0}}, "every coefficient is 0"),
        ({"stepp": 1}, "unknown field"),
        ({"step": None, "points": [{"rows": 1, "context": 0, "seconds": 1.0}]}, "points: got 1, wanted at least 3"),
        ({"step": None, "points": [{"rows": 0, "context": 0, "seconds": 1.0}] * 3}, "wanted rows from 1"),
    ],
)
def test_impossible_profiles(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        profile.read(_written(tmp_path, **changes))


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_workloads_have_the_papers_means(name: str) -> None:
    load = PAPER[name]
    lengths = np.array([[r.length_tokens for r in load.requests(seed)] for seed in range(5)])
    assert lengths.shape == (5, load.prompts * load.group_size)
    assert lengths.mean() == pytest.approx(load.mean_tokens, rel=0.04)
    assert lengths.max() == load.limit_tokens


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_siblings_correlate_as_asked(correlation: float) -> None:
    """One-way intraclass correlation of log lengths, where the limit cuts nothing. 2,000 groups: error below 0.03."""
    load = Workload(
        name="x", model="Moonlight", gpus=1, prompts=2000, group_size=8, limit_tokens=10**8, mean_tokens=20_000,
        correlation=correlation, sigma=0.7,
    )  # fmt: skip
    logs = np.log([r.length_tokens for r in load.requests(3)]).reshape(2000, 8)
    between, within = 8 * logs.mean(axis=1).var(ddof=1), logs.var(axis=1, ddof=1).mean()
    assert (between - within) / (between + 7 * within) == pytest.approx(correlation, abs=0.03)
    assert logs.std() == pytest.approx(0.7, rel=0.05)


def test_runaways_reach_the_limit() -> None:
    load = msgspec.structs.replace(PAPER["qwen2-vl-72b"], runaway=0.1, sigma=0.3)
    lengths = [request.length_tokens for request in load.requests(0)]
    assert np.mean([length == load.limit_tokens for length in lengths]) == pytest.approx(0.1, abs=0.01)
    assert np.mean(lengths) == pytest.approx(load.mean_tokens, rel=0.03)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit_tokens": 10}, "limit_tokens: got 10, wanted at least mean_tokens"),
        ({"correlation": 1.5}, "correlation: got 1.5"),
        ({"group_size": 0}, "group_size: got 0"),
        ({"sigma": -1.0}, "sigma: got -1.0"),
    ],
)
def test_impossible_workloads(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        msgspec.structs.replace(PAPER["moonlight"], **changes)


def test_too_many_runaways() -> None:
    with pytest.raises(ValueError, match="mean_tokens: got 7615"):
        msgspec.structs.replace(PAPER["qwen2-vl-72b"], runaway=0.9).requests(0)


def test_acceptance_is_the_papers_table() -> None:
    """With drafts of eight: the table's values at its points, and what lies between them on a line."""
    tokens = acceptance.paper().tokens
    assert tokens.shape == (9, 16)
    assert tokens[8, [0, 1, 5, 15]] == pytest.approx([1.70, 2.04, 2.32, 2.53], abs=1e-9)
    assert tokens[8, 3] == pytest.approx((2.04 + 2.32) / 2)
    assert tokens[0] == pytest.approx(np.ones(16))
    assert (np.diff(tokens, axis=0) > 0).all() and (np.diff(tokens, axis=1) >= 0).all()
    assert acceptance.paper().class_of(400) == 15
    with pytest.raises(ValueError, match="wanted one for 0"):
        Acceptance({1: 2.0})
    with pytest.raises(ValueError, match=r"got 0\.5 with 0 siblings"):
        Acceptance({0: 0.5})


def test_static_placement() -> None:
    what = made.requests([[5, 5], [50, 50], [5, 5], [50, 50]])
    assert assigned(what, 2, Placement.REQUESTS) == [0, 1] * 4
    assert assigned(what, 2, Placement.GROUPS) == [0, 0, 1, 1, 0, 0, 1, 1]
    assert assigned(what, 2, Placement.BUCKETS) == [1, 1, 0, 0, 1, 1, 1, 1]


def test_stock_admits_as_its_prefill_adder() -> None:
    """PrefillAdder: who comes in needs its prompt + min(limit, 4096); who runs reserves 0.7 of the latter."""
    one = Instance(0, made.profile(kv_capacity_tokens=20_000), np.ones((1, 1)))
    queue = StockQueue(one, Order.ARRIVAL)
    for request in made.requests([[8000] * 9], limit=10_000, prompt=100):
        queue.put(request)
    assert len(queue.admit()) == 4  # in one pass: 4 x 4,196 < 20,000
    assert len(queue.admit()) == 1  # later: 20,000 - 4 x (100 + 0.7 x 4,096) > 4,196, and then no more
    assert queue.ratio() == pytest.approx(0.7)
    one.steps = 600
    assert queue.ratio() == pytest.approx(0.098)


def test_partial_rollout_delivers_the_short_ones_first() -> None:
    """Half the groups are delivered, so the first step's are shorter than what was issued; all steps are whole."""
    load = Workload(
        name="x", model="Moonlight", gpus=2, prompts=12, group_size=4, limit_tokens=400, mean_tokens=100
    )  # fmt: skip
    where = made.cluster(2, kv_capacity_tokens=100_000)  # all of them at once
    done = partial_rollout(where, POLICIES["partial"], load, seed=1, steps=4)
    assert done.first_mean_tokens < done.mean_tokens
    assert done.tokens_per_s > 0
    with pytest.raises(ValueError, match="steps: got 1"):
        partial_rollout(where, POLICIES["partial"], load, seed=1, steps=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"limit_tokens": 10, "groups": [[5], []]}', "group 1 is empty"),
        ('{"limit_tokens": 10, "groups": []}', "groups: got none"),
        ('{"limit_tokens": 10, "groups": [[11]]}', "limit_tokens: got 10, wanted at least its length, 11"),
        ('{"limit_tokens": 10, "groups": [[5]], "prompt_tokens": [1, 2]}', "prompt_tokens: got 2"),
        ("[1", "trace"),
    ],
)
def test_impossible_traces(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        workload.read_trace(path)


def test_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text('{"limit_tokens": 10, "groups": [[5, 6], [7]], "prompt_tokens": [1, 2]}')
    found = [(r.index, r.group, r.length_tokens, r.prompt_tokens) for r in workload.read_trace(path)]
    assert found == [(0, "0", 5, 1), (1, "0", 6, 1), (2, "1", 7, 2)]


def test_a_profile_is_complete() -> None:
    assert isinstance(made.profile(), Profile)


def test_an_engine_with_seer_admits_as_its_own_admission() -> None:
    """Nothing is known: each may reach its limit of 900 tokens, so that of 2,000 slots one alone takes 900 at once;
    once siblings ended short, more fit. Stock would have reserved min(limit, 4096) either way."""
    one = Instance(0, made.profile(kv_capacity_tokens=2000), np.ones((1, 1)))
    queue = LengthsQueue(one, Order.CONTEXT)
    what = made.requests([[40] * 400], limit=900)
    for request in what:
        queue.put(request)
    first = queue.admit()
    assert 1 <= len(first) < 10
    for request in first:
        one.leave(request)
        request.tokens = 40
        queue.finished(request)
    assert len(queue.admit()) > 2 * len(first)
    assert queue.waits()
    assert len(queue.take_all(list(one.running.values()))) == 400 - len(first) - len(one.running)
    assert not queue.waits()
