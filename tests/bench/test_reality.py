"""bench reality: the fit and the simulation against an engine that is stepped through one token at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.reality import command, engines, fit
from sglang_seer.demo.servers import ServerError
from sglang_seer.rollout.records import GenerateRequest, Generation, Load
from sglang_seer.rollout.synchronous import Rollout
from sglang_seer.sim import StepTime

TRUE = StepTime(overhead_s=0.01, weights_s=0.0, row_s=5e-4, context_s=1e-6)
MAX_RUNNING = 16
PROMPT = 20


def stepped(lengths: list[int], group_size: int, begin_s: float = 1000.0) -> Rollout:
    """First come, first served, without a limit of memory; siblings share their prompt's prefill."""
    waiting = list(range(len(lengths)))
    running: dict[int, int] = {}
    first: dict[int, float] = {}
    finished: dict[int, float] = {}
    seen: set[int] = set()
    loads: list[Load] = []
    now, polled = begin_s, begin_s
    while waiting or running:
        while waiting and len(running) < MAX_RUNNING:
            number = waiting.pop(0)
            if number // group_size not in seen:
                seen.add(number // group_size)
                now += TRUE.batch_seconds(PROMPT)
            running[number], first[number] = 0, now
        context = sum(PROMPT + made for made in running.values())
        if now >= polled:
            polled = now + 0.25
            loads.append(
                Load(at_s=now, running=len(running), waiting=len(waiting), used_tokens=context, capacity_tokens=100_000)
            )
        now += TRUE.seconds(len(running), context)
        for number in list(running):
            running[number] += 1
            if running[number] == lengths[number]:
                del running[number]
                finished[number] = now
    generations = [
        Generation(
            group=f"g{number // group_size}", sample=number % group_size, output_ids=[0] * length, finish_reason="stop",
            prompt_tokens=PROMPT, submitted_s=begin_s, first_s=first[number], finished_s=finished[number],
            retractions=0, verify_steps=0,
        )
        for number, length in enumerate(lengths)
    ]  # fmt: skip
    return Rollout(generations=generations, loads=loads)


def lengths_of(seed: int) -> list[int]:
    return [int(length) for length in np.exp(np.random.default_rng(seed).normal(5.0, 0.7, 96)).clip(2, 900)]


def test_a_fitted_profile_foretells_another_rollout() -> None:
    profile = fit.profile_of([stepped(lengths_of(0), 8)], max_running=MAX_RUNNING)
    for rows, context in ((4, 1000), (16, 4000)):
        assert profile.step.seconds(rows, context) == pytest.approx(TRUE.seconds(rows, context), rel=0.05)
    other = stepped(lengths_of(1), 8)
    result = fit.simulated(profile, other.generations, 1000, engines=1, side="stock")
    assert result.seconds == pytest.approx(fit.makespan_s([other]), rel=0.08)
    assert len(result.finish_s) == 96


def test_a_rollout_that_tells_nothing() -> None:
    rollout = stepped([10] * 8, 8)
    with pytest.raises(ValueError, match="got 0 responses of 64 tokens"):
        fit.profile_of([rollout], max_running=MAX_RUNNING)
    with pytest.raises(ValueError, match="got no load"):
        fit.profile_of([Rollout(generations=rollout.generations, loads=[])], max_running=MAX_RUNNING)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On stepped engines: both within 15%."""

    def run(side: str, plans: list[list[GenerateRequest]], *, engines: int, **_: object) -> list[list[Rollout]]:
        return [[stepped(lengths_of(seed), 8) for _ in range(engines)] for seed in range(len(plans))]

    monkeypatch.setattr(engines, "run", run)
    names = [(f"g{number // 8}", number % 8) for number in range(96)]
    plan = [GenerateRequest(group=g, sample=s, input_ids=[1], limit=1000, seed=0) for g, s in names]
    monkeypatch.setattr(command, "_requests", lambda options, seed: plan)
    out = tmp_path / "rows.json"
    arguments = ["--engines", "1", "--repetitions", "2", "--max-running-requests", f"{MAX_RUNNING}"]
    assert command.main([*arguments, "--max-new-tokens", "1000", "--json", str(out)]) == 0
    kept = json.loads(out.read_text())
    shares = [row["value"] for row in kept["rows"] if row["metric"] == "simulated_over_real"]
    assert len(shares) == 2 and shares[0] == pytest.approx(1.0, abs=0.08)
    assert set(kept["profiles"]) == {f"1 engine, {side}, all but {n}" for side in ("stock", "seer") for n in (1, 2)}
    assert "1 engine, stock" in capsys.readouterr().out


def test_an_engine_that_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*_: object, **__: object) -> list[list[Rollout]]:
        raise ServerError("the stock server failed")

    monkeypatch.setattr(engines, "run", run)
    monkeypatch.setattr(command, "_requests", lambda options, seed: [
        GenerateRequest(group="g", sample=0, input_ids=[1], limit=10, seed=0)
    ])  # fmt: skip
    assert command.main(["--engines", "1"]) == 2
    assert capsys.readouterr().err.endswith("reality: the stock server failed\n")
    for wrong in (["--engines", "0"], ["--repetitions", "1"]):
        with pytest.raises(SystemExit) as ended:
            command.main(wrong)
        assert ended.value.code == 2
