"""What both servers are asked to do: the requests and the flags they share."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sglang_seer.demo.inputs import Prompt, Tokenizer, prompt_ids
from sglang_seer.rollout.records import GenerateRequest

# Of the limit: a guess at the mean response before one has been seen.
EXPECTED_LENGTH_SHARE = 0.15
# The KV pool holds this share of the whole rollout's demand, so that requests wait.
POOL_SHARE = 0.25
# SGLang ends a request that fills the pool to the last slot.
POOL_SPARE_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two servers. flags and environment: what it has and the other has not."""

    label: str
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


STOCK = Side(label="stock", environment={"SGLANG_SEER": "off"})
SEER = Side(label="seer", flags=("--scheduler-policy", "seer"))


def sample_seed(seed: int, group: int, sample: int) -> int:
    """A seed in [0, 2**31) of one sample, stable over machines."""
    digest = hashlib.blake2b(f"{seed}/{group}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**31


def plan_requests(
    prompts: Sequence[Prompt], tokenizer: Tokenizer, *, samples: int, seed: int, limit: int, context: int
) -> list[GenerateRequest]:
    """Every sample as its own request, group after group.

    Raises ValueError for a prompt that leaves no room for `limit` new tokens in `context`.
    """
    requests = []
    for group, prompt in enumerate(prompts):
        input_ids = prompt_ids(tokenizer, prompt.prompt)
        if len(input_ids) + limit > context:
            raise ValueError(
                f"prompt {group + 1}: {len(input_ids)} tokens and --max-new-tokens {limit} are more than the "
                f"{context} tokens that the model takes"
            )
        for sample in range(samples):
            own_seed = sample_seed(seed, group, sample)
            requests.append(
                GenerateRequest(group=f"g{group}", sample=sample, input_ids=input_ids, limit=limit, seed=own_seed)
            )
    return requests


def pool_tokens(requests: Sequence[GenerateRequest], engines: int) -> int:
    """KV slots of an engine: its part of a share of the expected demand, and always enough for the longest request."""
    demand = sum(len(request.input_ids) + EXPECTED_LENGTH_SHARE * request.limit for request in requests)
    longest = max(len(request.input_ids) + request.limit for request in requests)
    return max(math.ceil(POOL_SHARE * demand / engines), longest + POOL_SPARE_TOKENS)


def shared_flags(model: Path, *, kv_tokens: int, max_running: int) -> tuple[str, ...]:
    """Flags of both servers. Deterministic inference is what makes stock SGLang honour a request's seed.

    An idle scheduler sleeps: it would take a core from the servers beside it.
    """
    return (
        *("--model-path", str(model)),
        *("--dtype", "float32"),
        *("--max-total-tokens", str(kv_tokens)),
        *("--max-running-requests", str(max_running)),
        "--enable-deterministic-inference",
        "--skip-tokenizer-init",
        "--enable-metrics",
        "--sleep-on-idle",
    )


def shared_environment() -> dict[str, str]:
    """Environment of both servers."""
    return {"SGLANG_PLATFORM": "seer_cpu", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
