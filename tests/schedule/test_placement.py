"""The place of a chunk is that of the definition, for any engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from hypothesis import example, given
from hypothesis import strategies as st

from sglang_seer.schedule.placement import EngineLoad, Placement, PlacementRules, place

NAMES = "abcdef"
LOADS = st.builds(
    EngineLoad,
    st.just(""),
    st.integers(10, 60),
    st.integers(1, 6),
    in_flight=st.integers(0, 7),
    reserved_tokens=st.integers(0, 60),
    outside=st.integers(0, 3),
    outside_tokens=st.integers(0, 20),
    slowdown=st.sampled_from([1.0, 1.5, 4.0]),
)


def defined(
    need: int, cached: Mapping[str, int], engines: Sequence[EngineLoad], rules: PlacementRules
) -> Placement | None:
    """Sorted, one criterion after the other."""
    room = []
    for one in engines:
        fits = one.reserved_tokens + one.outside_tokens + need <= one.capacity_tokens
        if one.in_flight == 0 or (fits and one.in_flight + one.outside < one.slots):
            room.append(one)
    if not room:
        return None
    loads = [one.load for one in engines]
    homes = sorted((one for one in room if cached.get(one.name)), key=lambda one: (-cached[one.name], one.load))
    if homes and max(loads) - min(loads) <= min(rules.balance_spread, 1 + rules.balance_share * mean(loads)):
        return Placement(homes[0], "affinity", None)
    chosen = sorted(room, key=lambda one: one.load)[0]
    donors = sorted(cached, key=lambda name: -cached[name])[:1]
    far = [name for name in donors if cached[name] - cached.get(chosen.name, 0) > rules.cache_gap_tokens]
    return Placement(chosen, "load", far[0] if far else None)


@given(
    engines=st.lists(LOADS, max_size=len(NAMES)),
    cached=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9)),
    need=st.integers(1, 40),
    rules=st.builds(PlacementRules, balance_spread=st.integers(0, 9), cache_gap_tokens=st.integers(0, 9)),
)
@example(engines=[], cached={"a": 3}, need=1, rules=PlacementRules())
def test_the_place_is_that_of_the_definition(
    engines: list[EngineLoad], cached: dict[str, int], need: int, rules: PlacementRules
) -> None:
    for name, engine in zip(NAMES, engines, strict=False):
        engine.name = name
    assert place(need, cached, engines, rules) == defined(need, cached, engines, rules)
