"""Two tensor-parallel ranks: one drafts, both verify the same trees and emit stock SGLang's tokens.

Another engine shares the groups over a bus, which only the drafting rank has joined.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

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
    other = engine_of("ipc")
    before = seer.status()["counters"]
    siblings = bodies(prompts[::7], 6, temperature=1.0, limit=200)
    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(other.generate_all, siblings)
        seen = seer.generate_all(asked)
        elsewhere.result()
    assert tokens_of(seen) == tokens_of(wanted)
    assert ends_of(seen) == ends_of(wanted)
    # The comparison says something only if drafts were verified, in trees of several widths.
    after = seer.status()["counters"]
    assert after["drafted"] > before.get("drafted", 0)
    assert seer.status()["bus"]["received_tokens"] > 0
    # Both ranks order their queues by lengths of responses that ended on the other engine.
    assert after["finished_elsewhere"] > before.get("finished_elsewhere", 0)
    assert sum(name.startswith("steps_of_width_") for name in after) >= 2
    assert sum(answer["meta_info"]["spec_verify_ct"] for answer in seen) < sum(map(len, tokens_of(seen)))
