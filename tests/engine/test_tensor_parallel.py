"""Two tensor-parallel ranks: one drafts, both verify the same trees and emit stock SGLang's tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import Engine
from .test_equality import bodies, ends_of, tokens_of


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_are_those_of_stock_on_two_ranks(
    engine_of: Callable[[str], Engine], prompts: list[list[int]], temperature: float
) -> None:
    asked = bodies(prompts[::7], temperature=temperature, limit=200)
    wanted = engine_of("stock-tp2").generate_all(asked)
    seer = engine_of("seer-tp2")
    before = seer.status()["counters"]
    seen = seer.generate_all(asked)
    assert tokens_of(seen) == tokens_of(wanted)
    assert ends_of(seen) == ends_of(wanted)
    # The comparison says something only if drafts were verified, in trees of several widths.
    after = seer.status()["counters"]
    assert after["drafted"] > before.get("drafted", 0)
    assert sum(name.startswith("steps_of_width_") for name in after) >= 2
    assert sum(answer["meta_info"]["spec_verify_ct"] for answer in seen) < sum(map(len, tokens_of(seen)))
