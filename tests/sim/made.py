"""Small clusters and rollouts for the tests of the simulator."""

from __future__ import annotations

from typing import Any

from sglang_seer.sim import Cluster, Profile, Request, StepTime

FLAT = StepTime(overhead_s=1.0, weights_s=0.0, row_s=0.0, context_s=0.0)


def profile(**changes: Any) -> Profile:
    """One GPU; a step takes a second whatever its batch, a prefill too."""
    fields: dict[str, Any] = {
        "name": "flat",
        "gpus": 1,
        "kv_capacity_tokens": 1000,
        "step": FLAT,
        "kv_bytes_per_token": 1.0,
        "link_bytes_s": 1000.0,
    }
    return Profile(**(fields | changes))


def cluster(instances: int = 1, **changes: Any) -> Cluster:
    """Chunks of 16 tokens unless told otherwise."""
    of_profile = {name: changes.pop(name) for name in list(changes) if name in Profile.__struct_fields__}
    return Cluster(profile=profile(**of_profile), instances=instances, **({"chunk_tokens": 16} | changes))


def requests(groups: list[list[int]], limit: int | None = None, prompt: int = 0) -> list[Request]:
    """Of the given lengths, by group."""
    longest = limit or max(max(group) for group in groups)
    made: list[Request] = []
    for number, lengths in enumerate(groups):
        made += [
            Request(len(made) + place, f"{number}", prompt, length, longest) for place, length in enumerate(lengths)
        ]
    return made
