"""Two real SGLang servers on the CPU that serve one model: one with Seer's policy, one stock."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from transformers import AutoTokenizer

from sglang_seer.demo.servers import ServerPlan, pick_port, serve
from tests.rollout.real_engines import RealEngine, folder_of_example

COMMON_FLAGS = (
    *("--model-path", str(folder_of_example() / "model")),
    *("--dtype", "float32"),
    *("--max-total-tokens", "6144"),
    *("--max-running-requests", "12"),
    "--enable-deterministic-inference",
    *("--grammar-backend", "xgrammar"),
    # With overlap, stock SGLang counts penalties and minima a step late or not, as other requests happen to come.
    "--disable-overlap-schedule",
    "--sleep-on-idle",
)
SIDES = {"stock": ((), {"SGLANG_SEER": "off"}), "seer": (("--scheduler-policy", "seer"), {})}
START_TIMEOUT_S = 240.0


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RealEngine]]:
    """Both, by name; started together, stopped at the end."""
    folder = tmp_path_factory.mktemp("engines")
    with ExitStack() as stack:
        started = {}
        for name, (flags, extra) in SIDES.items():
            environment = {"SGLANG_PLATFORM": "seer_cpu", "HF_HUB_OFFLINE": "1", **extra}
            plan = ServerPlan(label=name, port=pick_port(None), flags=(*COMMON_FLAGS, *flags), environment=environment)
            started[name] = RealEngine(stack.enter_context(serve(plan, folder)))
        for engine in started.values():
            engine.server.wait_until_ready(START_TIMEOUT_S)
        yield started


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(folder_of_example() / "model")


@pytest.fixture(scope="session")
def problems(tokenizer: Any) -> list[list[int]]:
    """Input ids of some problems, chat template applied."""
    sys.path.insert(0, str(folder_of_example()))
    try:
        import prompts as make
    finally:
        sys.path.remove(str(folder_of_example()))
    texts = [line["prompt"] for line in make.make_prompts(seed=11, n=8)]
    chats = [[{"role": "user", "content": text}] for text in texts]
    rendered = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    return [tokenizer.encode(text, add_special_tokens=False) for text in rendered]


@pytest.fixture(scope="session")
def restart(engines: dict[str, RealEngine]) -> Iterator[Callable[[str], None]]:
    """Starts a killed engine again, at its port; it serves some time later."""
    with ExitStack() as stack:

        def start(name: str) -> None:
            old = engines[name].server
            engines[name] = RealEngine(stack.enter_context(serve(old.plan, old.log.parent)))

        yield start
