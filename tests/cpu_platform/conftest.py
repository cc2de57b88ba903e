"""Engines that several tests look at; each starts once in a session."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cpu_platform.engines import Answers, Batch, EngineHost
from tests.cpu_platform.tiny_model import VOCAB_SIZE, write_tiny_qwen3

NUM_PROMPTS = 24
TOP_TWO = {"return_logprob": True, "top_logprobs_num": 2}
# Mixed on purpose: samples of a batch start and end at different steps.
_random = random.Random(1)
PROMPTS = [[_random.randrange(1, VOCAB_SIZE - 1) for _ in range(_random.randrange(5, 60))] for _ in range(NUM_PROMPTS)]
# Without ignore_eos: with it SGLang reserves the whole length of a sample, and nothing is ever retracted.
GREEDY = Batch(PROMPTS, [{"temperature": 0, "max_new_tokens": 60 + 3 * i} for i in range(NUM_PROMPTS)], TOP_TWO)
# All without top_p: in SGLang one request with it changes the noise of the whole batch.
SEEDED = Batch(
    PROMPTS,
    [{"temperature": 0.9, "max_new_tokens": 60, "sampling_seed": 100 + i} for i in range(NUM_PROMPTS)],
)

Run = Callable[..., Answers]


def engine_arguments(model: Path, **more: Any) -> dict[str, Any]:
    """Deterministic mode and no tokenizer."""
    return {
        "model_path": str(model),
        "skip_tokenizer_init": True,
        "enable_deterministic_inference": True,
        "max_total_tokens": 16384,
        "log_level": "warning",
        **more,
    }


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen3(tmp_path_factory.mktemp("tiny_qwen3"))


@pytest.fixture(scope="session")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """`run(batches, engine arguments)` with this Python's SGLang."""
    with EngineHost(sys.executable, tmp_path_factory.mktemp("engines")) as host:

        def start(batches: list[Batch], *, mutant: str = "", **more: Any) -> Answers:
            return host.run(engine_arguments(model, **more), batches, mutant=mutant)

        yield start


@pytest.fixture(scope="session")
def plain(run: Run) -> Answers:
    """Plain decoding: greedy, seeded, then three of the seeded ones alone."""
    alone = [Batch([prompt], [SEEDED.sampling_params[i]]) for i, prompt in enumerate(PROMPTS[:3])]
    return run([GREEDY, SEEDED, *alone])


@pytest.fixture(scope="session")
def tree(run: Run) -> Answers:
    """SGLang's own NGRAM speculation: draft trees of 12 nodes, overlapped."""
    return run([GREEDY], speculative_algorithm="NGRAM")
