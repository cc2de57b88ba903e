"""Real SGLang servers on the CPU for the parts that need some, and rollouts on them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.reality.engines import SIDES, START_TIMEOUT_S
from sglang_seer.demo import inputs
from sglang_seer.demo.plan import POOL_SPARE_TOKENS, shared_environment, shared_flags
from sglang_seer.demo.servers import Server, ServerPlan, pick_port, serve
from sglang_seer.rollout import Prompt, RolloutController, Sample

MODEL = inputs.EXAMPLE / "model"
Tokens = Mapping[tuple[str, int], Sequence[int]]


def prompts(count: int, *, samples: int, limit: int, seed: int) -> list[Prompt]:
    """Of the example's problems; every response goes on to `limit` tokens."""
    tokenizer = inputs.load_tokenizer(MODEL)
    sampling = {"temperature": 1.0, "max_new_tokens": limit, "ignore_eos": True}
    return [
        Prompt(
            group=f"{seed}-{number}",
            input_ids=inputs.prompt_ids(tokenizer, problem.prompt),
            samples=samples,
            sampling=sampling,
            seed=seed,
        )
        for number, problem in enumerate(inputs.example_prompts(count, seed))
    ]


@contextmanager
def engine(label: str, wanted: Sequence[Prompt], folder: Path) -> Iterator[Server]:
    """An engine with Seer's schedule, no drafts, and room for all samples at a time; it may not serve yet.

    No drafts: how many are accepted would be a difference of its own.
    """
    flags, environment = SIDES["seer"]
    samples = sum(prompt.samples for prompt in wanted)
    need = sum(prompt.samples * (len(prompt.input_ids) + prompt.sampling["max_new_tokens"]) for prompt in wanted)
    plan = ServerPlan(
        label=label,
        port=pick_port(None),
        flags=(*shared_flags(MODEL, kv_tokens=need + POOL_SPARE_TOKENS, max_running=samples), *flags),
        environment={**shared_environment(), **environment},
    )
    with serve(plan, folder) as server:
        yield server


def wait_for(servers: Sequence[Server]) -> None:
    """Until all serve. Raises ServerError where one does not."""
    for server in servers:
        server.wait_until_ready(START_TIMEOUT_S)


async def roll_out(rollout: RolloutController, wanted: Sequence[Prompt]) -> tuple[list[Sample], float]:
    """All samples, and the seconds they took."""
    began_s = time.monotonic()
    samples = [sample async for sample in rollout.samples(wanted)]
    return samples, time.monotonic() - began_s


def tokens_of(samples: Sequence[Sample]) -> Tokens:
    return {(sample.group, sample.sample): sample.output_ids for sample in samples}


def check_equal(seen: Tokens, wanted: Tokens, what: str) -> None:
    """Raises ValueError for samples that differ: then no time is worth a report."""
    if seen.keys() != wanted.keys():
        raise ValueError(f"{what}: {len(seen)} samples came, wanted {len(wanted)}")
    if differ := [key for key in wanted if list(seen[key]) != list(wanted[key])]:
        raise ValueError(f"{what}: {len(differ)} of {len(wanted)} samples differ, the first: {differ[0]}")
