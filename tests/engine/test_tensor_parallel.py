"""Two tensor-parallel ranks: one drafts, both verify the same trees and emit stock SGLang's tokens.

Another engine shares the groups over a bus, which only the drafting rank has joined.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import Engine
from .test_equality import bodies, ends_of, tokens_of
from .test_sharing import until


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_are_those_of_stock_on_two_ranks(
    engine_of: Callable[[str], Engine], prompts: list[list[int]], temperature: float
) -> None:
    asked = bodies(prompts[::7], temperature=temperature, limit=200)
    wanted = engine_of("stock-tp2").generate_all(asked)
    seer = engine_of("seer-tp2")
    other = engine_of("ipc")
    before = seer.status()["counters"]
    siblings = bodies(prompts[::7], 6, temperature=1.0, limit=200)

    def lengths_came() -> bool:
        """After samples that are those of stock."""
        with ThreadPoolExecutor(1) as pool:
            elsewhere = pool.submit(other.generate_all, siblings)
            seen = seer.generate_all(asked)
            elsewhere.result()
        assert tokens_of(seen) == tokens_of(wanted)
        assert ends_of(seen) == ends_of(wanted)
        # The comparison says something only if drafts were verified.
        steps = sum(answer["meta_info"]["spec_verify_ct"] for answer in seen)
        assert steps < sum(len(tokens) - 1 for tokens in tokens_of(seen))
        counted = seer.status()["counters"].get("finished_elsewhere", 0)
        return bool(counted > before.get("finished_elsewhere", 0))

    # Both ranks order their queues by lengths of responses that ended on the other engine.
    until(lengths_came)
    after = seer.status()["counters"]
    assert after["drafted"] > before.get("drafted", 0)
    assert seer.status()["bus"]["received_tokens"] > 0
    # In trees of several widths.
    assert sum(name.startswith("steps_of_width_") for name in after) >= 2
