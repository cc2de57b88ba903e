"""Real SGLang servers on the CPU, shared by all tests of this room.

One stock without overlap scheduling, one Seer with overlap, one Seer with page size 16 and without overlap, and those
that share text with each other.
"""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from sglang_seer.demo.redis_server import RedisServer, programs
from sglang_seer.demo.servers import Server, ServerPlan, pick_port, serve
from tests.reasoner import REASONER, reasoner_prompts
from tests.steady_clock import STEADY_CLOCK

START_TIMEOUT_S = 480.0
REQUEST_TIMEOUT_S = 240.0
# Small enough that twelve long samples do not fit: they wait, and some are retracted.
POOL_TOKENS = 2048

COMMON_FLAGS = (
    *("--model-path", str(REASONER / "model")),
    *("--dtype", "float32"),
    *("--max-total-tokens", str(POOL_TOKENS)),
    *("--max-running-requests", "12"),
    "--enable-deterministic-inference",
    *("--grammar-backend", "xgrammar"),
    "--enable-custom-logit-processor",
    # Admit boldly, so that running samples are retracted when the pool is full.
    *("--schedule-conservativeness", "0.1"),
    # Several servers share two cores.
    "--sleep-on-idle",
)
# Two ranks on two cores, joined by gloo.
TWO_RANKS = ("--tp-size", "2", "--disable-custom-all-reduce")
RANK_CORES = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}
# A careless engine has to retract: that is tested, too. Its chunks are short, so that requests yield.
CARELESS = ("--scheduler-policy", "seer", "--seer-config", '{"overflow_risk": 1000, "chunk_tokens": 32}')
# More requests at a time than the pool can take to their ends. SGLang reserves more after a retraction and less again
# over 600 steps; these samples are shorter than real ones by as much as 15 steps are.
CROWDED_POOL_TOKENS = 5000
CROWDED = ("--max-running-requests", "64", "--max-total-tokens", str(CROWDED_POOL_TOKENS))
BOLD_AGAIN = {"SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS": "15"}


def over(bus: str) -> tuple[str, str]:
    """Flags of an engine that shares text; `engine_of` knows where."""
    return ("--seer-config", json.dumps({"bus": f"{bus}-url"}))


# What yields goes through host memory and a store.
HICACHE = (
    *("--page-size", "16", "--disable-overlap-schedule", "--enable-hierarchical-cache"),
    *("--hicache-storage-backend", "file", "--hicache-write-policy", "write_through"),
    *("--hicache-storage-backend-extra-config", json.dumps({"file_storage_path": "kv", "prefetch_threshold": 16})),
)
SIDES = {
    "stock": (("--disable-overlap-schedule", "--enable-metrics"), {"SGLANG_SEER": "off"}),
    "seer": (CARELESS, {}),
    "seer-page16": ((*CARELESS, "--page-size", "16", "--disable-overlap-schedule"), {}),
    "seer-hicache": ((*CARELESS, *HICACHE), {}),
    "stock-crowded": (CROWDED, {"SGLANG_SEER": "off", **BOLD_AGAIN}),
    "observe": ((*CROWDED, "--enable-metrics"), {"SGLANG_SEER": "observe", **BOLD_AGAIN}),
    "seer-crowded": ((*CROWDED, "--scheduler-policy", "seer"), BOLD_AGAIN),
    # Nobody yields in time: chunks are longer than these samples.
    "seer-careless": (
        (*CROWDED, "--scheduler-policy", "seer", "--seer-config", '{"overflow_risk": 1000}'),
        BOLD_AGAIN,
    ),
    # What a GPU would do, as far as a CPU can: Triton kernels through the interpreter, a few widths, each with its own
    # attention state. Graphs are what is missing.
    "as-on-gpu": (
        ("--scheduler-policy", "seer"),
        {"SGLANG_SEER_KERNELS": "triton", "TRITON_INTERPRET": "1"},
    ),
    "stock-tp2": ((*TWO_RANKS, "--disable-overlap-schedule"), {"SGLANG_SEER": "off", **RANK_CORES}),
    "seer-tp2": ((*TWO_RANKS, "--scheduler-policy", "seer", *over("ipc")), RANK_CORES),
    # Two engines share groups, and the second one is told much that is lost, late, twice or false.
    "ipc": (("--scheduler-policy", "seer", "--enable-metrics", *over("ipc")), {}),
    "ipc-fuzzed": (("--scheduler-policy", "seer", "--enable-metrics", *over("ipc")), {}),
    "redis": (("--scheduler-policy", "seer", *over("redis")), {}),
    "redis-fuzzed": (("--scheduler-policy", "seer", *over("redis")), {}),
    "mutant": (("--scheduler-policy", "seer"), {}),
}
# Draws a node's token with the noise of the next position: a verifier that is wrong in the least visible way.
MUTANT = """
import sglang_seer.verify.walk as walk
_draw = walk.draw
walk.draw = lambda logits, rows, positions: _draw(logits, rows, positions + 1)
"""
FEW_WIDTHS = """
import sglang_seer.engine.pacing as pacing
pacing.pads_widths = lambda device_type: True
"""
# A server takes 1 to 2 GB.
SHARED_BY_ALL = ("stock", "seer", "seer-page16")
MOST_PASSING = 4
# What a server runs before anything else.
FUZZED_BUS = Path(__file__).with_name("fuzzed_bus.py").read_text()
# Those whose steps are counted have a steady clock; the others choose their widths by what steps take here.
CUSTOMIZED = {
    "seer": STEADY_CLOCK,
    "seer-page16": STEADY_CLOCK,
    "seer-tp2": STEADY_CLOCK,
    "seer-crowded": STEADY_CLOCK,
    "seer-careless": STEADY_CLOCK,
    "ipc": STEADY_CLOCK,
    "mutant": MUTANT,
    "as-on-gpu": FEW_WIDTHS + STEADY_CLOCK,
    "ipc-fuzzed": FUZZED_BUS,
    "redis-fuzzed": FUZZED_BUS,
}


# What a call says of each of many requests, and what stands for nothing.
COLUMNS = {
    "input_ids": None,
    "sampling_params": None,
    "return_logprob": False,
    "logprob_start_len": -1,
    "top_logprobs_num": 0,
}


def together(bodies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One call for all of them: they reach the scheduler in one message, so that none runs before all are there."""
    assert not {key for body in bodies for key in body} - COLUMNS.keys()
    return {key: [body.get(key, nothing) for body in bodies] for key, nothing in COLUMNS.items()}


def existing_path() -> list[str]:
    """Folders that this process was told to import from."""
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


class Engine:
    """One server, spoken to over HTTP."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def post(self, path: str, body: dict[str, Any]) -> requests.Response:
        return requests.post(self.server.plan.url + path, json=body, timeout=REQUEST_TIMEOUT_S)

    def generate(self, body: dict[str, Any]) -> Any:
        """The answer of /generate. Raises AssertionError for anything but status 200."""
        response = self.post("/generate", body)
        assert response.status_code == 200, response.text
        return response.json()

    def generate_all(self, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        """Answers of requests that are in flight together, in the order of `bodies`."""
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(self.generate, bodies))

    def generate_together(self, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        """As `generate_all`, and all of them wait before the first one runs."""
        answers: list[Any] = self.generate(together(bodies))
        return answers

    @contextmanager
    def streaming(self, body: dict[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a streamed answer as they come; those of many requests have an index."""
        with requests.post(
            self.server.plan.url + "/generate", json={**body, "stream": True}, stream=True, timeout=REQUEST_TIMEOUT_S
        ) as response:
            yield map(json.loads, self._events(response))

    @staticmethod
    def _events(response: requests.Response) -> Iterator[str]:
        for line in response.iter_lines():
            if line == b"data: [DONE]":
                return
            if line.startswith(b"data:"):
                yield line.decode().removeprefix("data:")
        raise AssertionError("the stream broke off")

    def stream(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """All events of a streamed answer."""
        with self.streaming(body) as events:
            return list(events)

    def status(self) -> dict[str, Any]:
        """Seer's live block in /server_info."""
        info = requests.get(self.server.plan.url + "/server_info", timeout=REQUEST_TIMEOUT_S).json()
        return info["internal_states"][0]["sglang_seer"]

    def assert_idle_and_clean(self) -> None:
        """Nothing runs and no KV slot leaked: a flush succeeds only then, and SGLang's leak check ends the process.

        The last answer comes before the scheduler has let go of its request, so the flush may wait.
        """
        assert self.post("/flush_cache?timeout=60", {}).status_code == 200
        self.server.check()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real server, which a test may kill and start again."""
    if not programs():
        pytest.skip("neither redis-server nor valkey-server is installed: apt-get install redis-server")
    with RedisServer(tmp_path_factory.mktemp("redis"), program=programs()[0]) as server:
        yield server


@pytest.fixture(scope="package")
def engine_of(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Engine]]:
    """Engine by name of SIDES, started at first use; those of few tests are stopped again for others."""
    folder = tmp_path_factory.mktemp("engines")
    for name, code in CUSTOMIZED.items():
        (folder / name).mkdir()
        (folder / name / "sitecustomize.py").write_text(textwrap.dedent(code))
    with ExitStack() as stack:
        started: dict[str, Engine] = {}
        passing: dict[str, ExitStack] = {}  # by name, in the order of their last use

        def start(name: str) -> Engine:
            if name in passing:
                passing[name] = passing.pop(name)
            if name not in started:
                while len(passing) >= MOST_PASSING:
                    oldest = next(iter(passing))
                    del started[oldest]
                    passing.pop(oldest).close()
                mine = stack
                if name not in SHARED_BY_ALL:
                    mine = passing[name] = stack.enter_context(ExitStack())
                flags, extra = SIDES[name]
                environment = {"SGLANG_PLATFORM": "seer_cpu", "HF_HUB_OFFLINE": "1", **extra}
                if name in CUSTOMIZED:
                    environment["PYTHONPATH"] = os.pathsep.join([str(folder / name), *existing_path()])
                url = request.getfixturevalue("redis_server").url if name.startswith("redis") else f"ipc://{folder}/bus"
                flags = tuple(re.sub("(ipc|redis)-url", url, flag) for flag in flags)
                plan = ServerPlan(
                    label=name, port=pick_port(None), flags=(*COMMON_FLAGS, *flags), environment=environment
                )
                server = mine.enter_context(serve(plan, folder))
                server.wait_until_ready(START_TIMEOUT_S)
                started[name] = Engine(server)
            return started[name]

        yield start


@pytest.fixture(scope="package")
def stock(engine_of: Callable[[str], Engine]) -> Engine:
    return engine_of("stock")


@pytest.fixture(scope="package", params=["seer", "seer-page16"])
def seer(request: pytest.FixtureRequest, engine_of: Callable[[str], Engine]) -> Engine:
    return engine_of(request.param)


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    return reasoner_prompts()
