"""Observe mode on a real engine: samples and order stay stock's, and `doctor --live` says what Seer would have done."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sglang_seer import doctor
from sglang_seer.observe.predict import LEAST_DRAFT_STEPS, choose
from sglang_seer.observe.record import Window, decode

from .conftest import Engine
from .test_equality import bodies, ends_of, tokens_of
from .test_metrics import scraped
from .test_sharing import until

EngineOf = Callable[[str], Engine]
SAMPLES = 8


@pytest.fixture(scope="module")
def asked(engine_of: EngineOf, prompts: list[list[int]]) -> list[dict[str, Any]]:
    """More than the pool can take: the wordiest prompts last, so that stock is late with them."""
    alone = tokens_of(engine_of("stock").generate_all(bodies(prompts, samples=1, limit=600)))
    by_length = sorted(range(len(prompts)), key=lambda place: len(alone[place]))
    return bodies([prompts[place] for place in by_length[:: len(prompts) // 8]], SAMPLES, limit=600)


@pytest.fixture(scope="module")
def observed(engine_of: EngineOf, asked: list[dict[str, Any]]) -> tuple[Engine, list[Any]]:
    """An engine after a rollout, and its answers."""
    engine = engine_of("observe")
    engine.assert_idle_and_clean()
    answers = engine.generate_together(asked)
    until(lambda: engine.status()["observed"]["replayed_steps"] > 4 * LEAST_DRAFT_STEPS)
    return engine, answers


def window_of(engine: Engine) -> Window:
    found = choose(decode(engine.status()["observed"]["record"]))
    assert isinstance(found, Window), found
    return found


def test_samples_are_those_of_stock(
    stock: Engine, observed: tuple[Engine, list[Any]], asked: list[dict[str, Any]]
) -> None:
    engine, answers = observed
    wanted = stock.generate_all(asked)
    assert tokens_of(answers) == tokens_of(wanted)
    assert ends_of(answers) == ends_of(wanted)
    status = engine.status()
    assert (status["mode"], status["parts"], status["reasons"]) == ("observe", [], [])
    assert status["observed"]["would_refuse"] == []
    log = engine.server.log.read_text()
    assert log.count("seer: observe on SGLang") == 1 and "ordered its first queue" not in log


def test_what_happened_is_recorded(observed: tuple[Engine, list[Any]], asked: list[dict[str, Any]]) -> None:
    engine, answers = observed
    window = window_of(engine)
    assert sorted(one.tokens for one in window.responses) == sorted(map(len, tokens_of(answers)))
    assert (window.running, window.aborted, window.chunks, window.left_out) == (0, 0, 0, 0)
    assert {one.limit_tokens for one in window.responses} == {600}
    by_group: dict[int, list[int]] = {}
    for one in window.responses:
        by_group.setdefault(one.group, []).append(one.tokens)
    siblings = [sorted(map(len, tokens_of(answers[at : at + SAMPLES]))) for at in range(0, len(answers), SAMPLES)]
    assert sorted(map(sorted, by_group.values())) == sorted(siblings)
    retracted = sum(answer["meta_info"]["num_retractions"] for answer in answers)
    assert sum(one.retractions for one in window.responses) == retracted
    assert len(asked) == len(window.responses)


def test_stock_order_stays_where_seer_would_have_another(observed: tuple[Engine, list[Any]]) -> None:
    engine, _ = observed
    counters = engine.status()["counters"]
    assert counters["reordered"] > 0 and "ordered" not in counters
    assert counters["admissions_judged"] >= counters["admissions_it_would_delay"]
    came = sorted(window_of(engine).responses, key=lambda one: (one.arrived_s, one.first_s))
    starts = [one.first_s for one in came]
    assert starts == sorted(starts)
    # They did wait, so that there was something to order.
    assert max(one.first_s - one.arrived_s for one in came) > 0


def test_what_it_saw_is_in_the_metrics(observed: tuple[Engine, list[Any]]) -> None:
    engine, _ = observed

    def agrees() -> bool:
        status, seen = engine.status(), scraped(engine)
        counters = status["counters"]
        return (
            seen["sglang_seer_mode"] == {("off",): 0, ("observe",): 1, ("on",): 0}
            and seen["sglang_seer_observed_admissions_total"] == {(): counters["admissions_judged"]}
            and seen["sglang_seer_observed_admissions_delayed_total"] == {(): counters["admissions_it_would_delay"]}
            and seen["sglang_seer_observed_cost_share"] == {(): pytest.approx(status["observed"]["cost_share"])}
        )

    until(agrees)
    assert engine.status()["counters"]["admissions_judged"] > 0 < engine.status()["observed"]["cost_share"]


def test_the_doctor_tells_what_seer_would_have_done(
    observed: tuple[Engine, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    url = observed[0].server.plan.url
    assert doctor.main(["--live", url, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["ranks"]
    assert found["mode"] == "observe" and found["engine"]["policy"] == "fcfs"
    assert found["queues"]["other_order"] <= found["queues"]["looked_at"]
    prediction = found["prediction"]
    assert list(prediction["outcomes"]) == ["fcfs", "seer-engine", "seer-engine-spec"]
    # Siblings of this model say the same things: the demo's engines accept several tokens a step.
    assert prediction["draft_tokens"]["0"] > 1.0
    assert max(prediction["draft_tokens"].values()) > 1.5
    assert doctor.main(["--live", url]) == 0
    said = capsys.readouterr().out
    assert "simulated: Seer with drafts from siblings" in said and "assumed:" in said


def test_a_rollout_that_is_not_over_is_not_predicted_from(
    engine_of: EngineOf, observed: tuple[Engine, list[Any]], prompts: list[list[int]]
) -> None:
    """Negative control of the above: after a flush the last whole window tells; a new one must end first."""
    engine, _ = observed
    whole = window_of(engine)
    engine.assert_idle_and_clean()
    engine.generate_all(bodies(prompts[:2], samples=2, limit=20))
    record = decode(engine.status()["observed"]["record"])
    assert [len(window.responses) for window in record.windows] == [len(whole.responses), 4]
    assert choose(record) == whole
    assert "4 responses have ended" in str(choose(msgspec.structs.replace(record, windows=record.windows[1:])))


def test_other_modes_of_other_engines(engine_of: EngineOf, stock: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--live", stock.server.plan.url]) == 1
    assert "mode: off" in capsys.readouterr().out
    assert doctor.main(["--live", engine_of("seer").server.plan.url]) == 0
    assert "active: scheduling, speculation" in capsys.readouterr().out
