"""What both length models promise, and that the hierarchical one learns what is there."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sglang_seer.context import ContextLengths, LengthModel, LongestSibling, Population
from sglang_seer.context.population import Evidence, Prior, fit, hazards
from sglang_seer.context.remaining import hazard
from sglang_seer.context.siblings import Siblings

LIMIT = 1000
MODELS: list[Callable[[], LengthModel]] = [LongestSibling, ContextLengths]
both = pytest.mark.parametrize("make", MODELS)
populations = st.builds(Population, st.floats(2, 9), st.floats(0.001, 4), st.floats(0.001, 4))
lengths_of = st.lists(st.integers(1, LIMIT), max_size=12)


@both
def test_an_unknown_group_counts_as_long_until_a_sibling_ends(make: Callable[[], LengthModel]) -> None:
    model = make()
    before = model.expected_tokens("a", LIMIT)
    assert before > 0.7 * LIMIT
    model.finish("a", 30)
    assert model.expected_tokens("a", LIMIT) < 0.2 * before
    assert model.expected_tokens("b", LIMIT) >= model.expected_tokens("a", LIMIT)


def test_the_papers_rule() -> None:
    model = LongestSibling()
    for length in (7, 30, 12):
        model.finish("a", length)
    assert model.expected_tokens("a", LIMIT) == 30
    assert model.expected_tokens("a", 20) == 20
    assert model.expected_tokens("b", LIMIT) == LIMIT
    assert model.remaining("a", 10, LIMIT).mean == model.remaining("a", 10, LIMIT).quantile(0.9) == 20
    assert model.remaining("a", 30, LIMIT).mean == LIMIT - 30
    assert (model.information("a", 0), model.information("b", 0), model.information("b", 1)) == (0, math.inf, 0)


def tell(model: LengthModel, finished: list[int], running: list[int], rng: random.Random | None = None) -> LengthModel:
    events = [("finish", member, tokens) for member, tokens in enumerate(finished)]
    events += [("progress", len(finished) + member, tokens) for member, tokens in enumerate(running)]
    if rng:
        rng.shuffle(events)
    for kind, member, tokens in events:
        if kind == "finish":
            model.finish("a", tokens, member=member, limit_tokens=LIMIT)
        else:
            model.progress("a", member, tokens)
    return model


@both
@given(finished=lengths_of, running=lengths_of, other=st.integers(1, LIMIT), rng=st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_order_of_what_was_told_changes_nothing(
    make: Callable[[], LengthModel], finished: list[int], running: list[int], other: int, rng: random.Random
) -> None:
    models = [tell(make(), finished, running), tell(make(), finished, running, rng)]
    for model in models:
        model.finish("b", other)
        if isinstance(model, ContextLengths):
            # The population is fitted now and then; with both up to date, only what was told counts.
            model._fitted = None
            model.fit()
    answers = [
        (
            m.expected_tokens("a", LIMIT),
            m.expected_tokens("c", LIMIT),
            m.remaining("a", 5, LIMIT, member=0).quantile(0.9),
        )
        for m in models
    ]
    assert answers[0] == answers[1]


@given(lengths_of, lengths_of, populations, st.integers(0, 11), st.integers(1, 4 * LIMIT))
@settings(max_examples=300, deadline=None)
def test_a_longer_finished_sibling_never_shortens(
    finished: list[int], running: list[int], population: Population, place: int, longer: int
) -> None:
    """Under one population: what a member says about all other groups may cut both ways."""
    totals = []
    for replaced in (False, True):
        group = Siblings()
        for at, tokens in enumerate(finished or [1]):
            changed = replaced and at == place % len(finished or [1])
            group.finish(max(tokens, longer) if changed else tokens, capped=False)
        for member, tokens in enumerate(running):
            group.progress(member, tokens)
        mean, variance = group.belief(population)
        totals.append(mean + (variance + population.within) / 2)
    assert totals[1] >= totals[0] - 1e-7


@given(lengths_of, lengths_of, populations, st.integers(1, LIMIT))
@settings(max_examples=200, deadline=None)
def test_unfinished_siblings_only_pull_upwards(
    finished: list[int], running: list[int], population: Population, bound: int
) -> None:
    group = Siblings()
    for tokens in finished:
        group.finish(tokens, capped=False)
    for member, tokens in enumerate(running):
        group.progress(member, tokens)
    before = group.belief(population).mean
    group.progress("one more", bound)
    assert group.belief(population).mean >= before - 1e-7
    # Its own length counts once: without it, the answer is the one before, up to the approximation's one step.
    assert group.belief_without("one more", population).mean <= group.belief(population).mean + 1e-7
    group.drop("one more")
    assert group.belief(population).mean == before


@given(st.lists(st.tuples(st.floats(3, 9), st.integers(0, 3), st.floats(2, 9)), min_size=1, max_size=8), populations)
@settings(max_examples=100, deadline=None)
def test_the_belief_is_the_top_of_the_posterior(
    members: list[tuple[float, int, float]], population: Population
) -> None:
    """The log posterior, written out, is lower on both sides of the belief."""
    group = Siblings()
    logs, scale = [], math.sqrt(population.within)
    for number, (finished, times, running) in enumerate(members):
        logs.append(math.log(math.ceil(math.exp(finished))))
        group.finish(round(math.exp(logs[-1])), capped=False)
        for copy in range(times):
            group.progress((number, copy), math.ceil(math.exp(running)))

    def score(mean: float) -> float:
        value = -((mean - population.centre) ** 2) / (2 * population.between)
        value -= sum((log - mean) ** 2 for log in logs) / (2 * population.within)
        for bound, times in group.evidence().beyond:
            value += times * math.log(math.erfc((bound - mean) / (scale * math.sqrt(2))))
        return value

    mean, variance = group.belief(population)
    assume(all(bound - mean < 20 * scale for bound, _ in group.evidence().beyond))
    assert score(mean) > max(score(mean - 0.05 * math.sqrt(variance)), score(mean + 0.05 * math.sqrt(variance)))


def rollout(correlation: float, groups: int, size: int, limit: int, until: int, seed: int = 0) -> ContextLengths:
    """A rollout of which everything up to a length of `until` has been seen."""
    rng = np.random.default_rng(seed)
    variance = 0.4
    mean = 7 + math.sqrt(correlation * variance) * rng.standard_normal((groups, 1))
    logs = mean + math.sqrt((1 - correlation) * variance) * rng.standard_normal((groups, size))
    model = ContextLengths()
    for (group, member), tokens in np.ndenumerate(np.exp(logs).astype(int).clip(1, limit)):
        if tokens < until or tokens == limit:
            model.finish(str(group), int(tokens), member=member, limit_tokens=limit)
        else:
            model.progress(str(group), member, until)
    model.fit()
    return model


@pytest.mark.parametrize("until", [1100, 100_000], ids=["half unfinished", "all finished"])
@pytest.mark.parametrize("correlation", [0.1, 0.5, 0.9])
def test_the_population_is_found_also_from_unfinished_responses(correlation: float, until: int) -> None:
    """Power: leaving the unfinished out gives a centre below 6.8 when half are (see the next test)."""
    found = rollout(correlation, 300, 8, 100_000, until).population(100_000)
    # Where whole groups are unfinished, the top of their posterior lies a little below its middle.
    assert found.centre == pytest.approx(7, abs=0.15)
    assert found.within == pytest.approx(0.4 * (1 - correlation), rel=0.15)
    assert found.between == pytest.approx(0.4 * correlation, rel=0.4)


def test_without_the_unfinished_the_population_looks_short() -> None:
    model = rollout(0.5, 300, 8, 100_000, 1100)
    seen = [Evidence(siblings.evidence().finished, ()) for siblings in model._groups.values() if siblings.ended]
    assert fit(seen, Prior(), math.log(100_000), Population(9, 0.3, 0.2)).centre < 6.8


def test_cut_responses_count_as_longer_than_the_limit() -> None:
    told = rollout(0.5, 300, 8, 1500, 1500).population(1500)
    assert told.centre == pytest.approx(7, abs=0.12)
    assert told.within == pytest.approx(0.2, rel=0.2)


def test_where_nearly_all_are_cut_the_spread_has_an_end() -> None:
    """Their likelihood grows with it: without the bound a fit that follows its own gets to a variance of hundreds."""
    cut = Evidence((), [(math.log(64), 8)])
    short = Evidence([math.log(9)], [(math.log(64), 7)])
    found = Prior().population(64)
    for _ in range(20):
        found = fit([cut] * 1200 + [short] * 50, Prior(), math.log(64), found)
    assert max(found.between, found.within) <= 4
    assert found.close_to(fit([cut] * 1200 + [short] * 50, Prior(), math.log(64), found))


def test_where_prompts_tell_nothing_groups_shrink_to_one_estimate() -> None:
    def scatter(correlation: float) -> float:
        model = rollout(correlation, 300, 4, 100_000, 100_000)
        return float(np.std([math.log2(model.expected_tokens(str(group), 100_000)) for group in range(300)]))

    # Four siblings' own mean scatters by 0.46 octaves here.
    assert scatter(0.0) < 0.12
    assert scatter(0.8) > 0.6
    model = rollout(0.0, 300, 4, 100_000, 100_000)
    assert model.information("new", 0) < 0.05 < rollout(0.8, 300, 4, 100_000, 100_000).information("new", 0)


def test_information_is_the_scatter_of_the_next_belief() -> None:
    """Simulated: draw a group's mean, draw a member, look how far the belief moves."""
    population, rng = Population(7, 0.5, 0.3), np.random.default_rng(1)
    known = Siblings()
    known.finish(900, capped=False)
    mean, variance = known.belief(population)
    moves = []
    for _ in range(4000):
        group = Siblings()
        group.finish(900, capped=False)
        centre = mean + math.sqrt(variance) * rng.standard_normal()
        group.finish(round(math.exp(centre + math.sqrt(population.within) * rng.standard_normal())), capped=False)
        moves.append(group.belief(population).mean - mean)
    assert population.information(1) == pytest.approx(float(np.std(moves)), rel=0.05)
    assert population.information(4) < population.information(1) < population.information(0)


def test_running_members_count_as_if_they_had_finished() -> None:
    model = rollout(0.5, 50, 4, 100_000, 100_000)
    assert model.information("0", 1) == model.information("new", 5) < model.information("0", 0)


@both
def test_a_group_is_untold_until_a_member_ended(make: Callable[[], LengthModel]) -> None:
    model = make()
    model.touch("a", LIMIT)
    assert model.untold("a") and model.untold("never seen")
    model.finish("a", 50)
    assert not model.untold("a") and model.untold("b")
    model.clear()
    assert model.untold("a")


@both
def test_groups_that_changed_are_named(make: Callable[[], LengthModel]) -> None:
    model = make()
    for group in "abc":
        model.finish(group, 50)
    seen = model.version
    model.finish("b", 900)
    assert model.version > seen
    changed = model.changed(seen)
    assert changed is None or set(changed) == {"b"}
    assert model.changed(model.version) == []
    model.clear()
    assert model.changed(seen) is None and len(model) == 0
    assert model.expected_tokens("b", LIMIT) == make().expected_tokens("b", LIMIT)


@given(
    st.lists(
        st.tuples(st.sampled_from(["finish", "progress", "lost", "touch"]), st.integers(0, 4), st.integers(1, 999))
    )
)
@settings(max_examples=200, deadline=None)
def test_no_answer_changes_unnoticed(events: list[tuple[str, int, int]]) -> None:
    for make in (lambda: LongestSibling(max_groups=3), lambda: ContextLengths(max_groups=3)):
        model = make()
        groups = [f"g{number}" for number in range(5)]

        def answers(model: LengthModel = model, groups: list[str] = groups) -> dict[str, tuple[float, ...]]:
            return {
                g: (model.expected_tokens(g, LIMIT), model.remaining(g, 9, LIMIT).quantile(0.9), model.finished(g))
                for g in groups
            }

        for number, (kind, group, tokens) in enumerate(events):
            before, version = answers(), model.version
            name = f"g{group}"
            if kind == "finish":
                model.finish(name, tokens, member=number - 1, limit_tokens=LIMIT)
            elif kind == "progress":
                model.progress(name, number, tokens)
            elif kind == "lost":
                model.lost(name, number - 1)
            else:
                model.touch(name)
            changed = model.changed(version)
            moved = {g for g, answer in answers().items() if answer != before[g]}
            assert changed is None or moved <= set(changed), (kind, moved, changed)
            # Of those of which nothing is known, the same is said.
            assert len({answer for g, answer in answers().items() if model.untold(g)}) <= 1
            assert len(model) <= 3


def test_small_steps_of_progress_cost_no_version() -> None:
    model = ContextLengths()
    model.progress("a", 0, 1000)
    version = model.version
    for tokens in range(1001, 1020):
        model.progress("a", 0, tokens)
    assert model.version == version
    model.progress("a", 0, 1200)
    assert model.version == version + 1


@both
def test_impossible_lengths(make: Callable[[], LengthModel]) -> None:
    model = make()
    with pytest.raises(ValueError, match="tokens: got -1"):
        model.finish("a", -1)
    with pytest.raises(ValueError, match="tokens: got -1"):
        model.progress("a", 0, -1)
    with pytest.raises(ValueError, match="generated_tokens: got 10, wanted 0 to 9"):
        model.remaining("a", 10, 10)


def test_hazards_of_arrays_are_those_of_numbers() -> None:
    z = np.linspace(-9, 40, 997)
    assert hazards(z) == pytest.approx([hazard(float(one)) for one in z], rel=1e-4, abs=1e-7)


def test_a_longer_limit_undoes_what_short_ones_said() -> None:
    """A warm-up of 16 tokens tells nothing of responses of up to 600."""
    model = ContextLengths()
    for member in range(4):
        model.finish("warm-up", 16, member=member, limit_tokens=16)
    believed = model.remaining("a", 0, 600).quantile(0.5)
    version = model.version
    model.touch("a", 600)
    assert model.changed(version) is None
    assert model.remaining("a", 0, 600).quantile(0.5) > 300 > 4 * believed
    version = model.version
    model.touch("b", 600)
    assert model.version == version
