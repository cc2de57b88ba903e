"""The pool holds a quarter of what the samples need: SGLang's reserve retracts, what is known of lengths does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import CROWDED_POOL_TOKENS, Engine
from .test_equality import bodies, tokens_of

Run = Callable[[str], tuple[list[list[int]], int]]


@pytest.fixture(scope="module")
def run(engine_of: Callable[[str], Engine], prompts: list[list[int]]) -> Run:
    """Tokens of a rollout of twenty samples each of the six wordiest prompts, by engine, and its retractions."""
    alone = tokens_of(engine_of("stock").generate_all(bodies(prompts, samples=1, limit=600)))
    wordy = sorted(range(len(prompts)), key=lambda i: len(alone[i]))[-6:]
    asked = bodies([prompts[i] for i in wordy], samples=20, limit=600)
    kept: dict[str, tuple[list[list[int]], int]] = {}

    def once(name: str) -> tuple[list[list[int]], int]:
        if name not in kept:
            engine = engine_of(name)
            engine.assert_idle_and_clean()
            answers = engine.generate_together(asked)
            kept[name] = tokens_of(answers), sum(answer["meta_info"]["num_retractions"] for answer in answers)
        return kept[name]

    return once


def test_no_retractions_where_sglang_has_many(run: Run, engine_of: Callable[[str], Engine]) -> None:
    wanted, stock_retractions = run("stock-crowded")
    assert sum(map(len, wanted)) > 3.5 * CROWDED_POOL_TOKENS
    seen, retractions = run("seer-crowded")
    assert seen == wanted
    # A few remain.
    assert 3 * retractions < stock_retractions
    assert engine_of("seer-crowded").status()["counters"]["admissions_held_back"] > 0


def test_a_careless_engine_retracts(run: Run) -> None:
    """Negative control: the same rollout with almost any risk allowed."""
    wanted, stock_retractions = run("stock-crowded")
    seen, retractions = run("seer-careless")
    assert seen == wanted
    assert retractions > stock_retractions
