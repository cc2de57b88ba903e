"""Engines that share text over a bus: samples stay those of stock SGLang, and siblings on the other engine draft."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sglang_seer.demo.redis_server import RedisServer

from .conftest import Engine
from .test_equality import bodies, endless, ends_of, tokens_of

ARRIVE_TIMEOUT_S = 240.0
SAMPLES = 6
EngineOf = Callable[[str], Engine]


def split(asked: list[dict[str, Any]], engines: list[Engine]) -> list[Any]:
    """Answers, the samples of each group given to the engines in turn, all in flight together."""
    with ThreadPoolExecutor(len(asked)) as pool:
        chosen = [engines[i % SAMPLES % len(engines)] for i in range(len(asked))]
        return list(pool.map(lambda engine, body: engine.generate(body), chosen, asked))


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must happen soon."""
    deadline_s = time.monotonic() + ARRIVE_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(params=["ipc", "redis"])
def pair(request: pytest.FixtureRequest, engine_of: EngineOf) -> list[Engine]:
    """A sound engine and one whose bus is fuzzed."""
    return [engine_of(name) for name in (request.param, f"{request.param}-fuzzed")]


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {}, {"top_p": 0.9}], ids=["greedy", "t1", "top_p"])
def test_samples_are_those_of_stock_whatever_the_bus_says(
    stock: Engine, pair: list[Engine], prompts: list[list[int]], sampling: dict[str, Any]
) -> None:
    asked = bodies(prompts[::5], SAMPLES, **sampling)
    seen, wanted = split(asked, pair), stock.generate_all(asked)
    assert tokens_of(seen) == tokens_of(wanted)
    assert ends_of(seen) == ends_of(wanted)


def test_the_fuzz_and_the_traffic_were_real(pair: list[Engine], prompts: list[list[int]]) -> None:
    """The comparison above says something only if text crossed, and if what was false reached the index."""
    sound, fuzzed = pair
    asked = bodies(prompts[1::5], SAMPLES, limit=400)
    fates = {"lost", "corrupt", "late", "twice", "hostile", "tokens", "offsets", "foreign", "stale"}

    def everything_happened() -> bool:
        ours, theirs = sound.status(), fuzzed.status()
        return bool(
            ours["bus"]["received_tokens"]
            and ours["counters"].get("finished_elsewhere")
            and theirs["bus"]["received_tokens"]
            and theirs["bus"]["dropped_messages"].keys() >= {"corrupt", "stale"}
            and fates <= _met(fuzzed)
        )

    # Messages are batched, so a round has few.
    until(lambda: bool(split(asked, pair)) and everything_happened())
    for engine in pair:
        assert engine.status()["bus"]["state"] == "running"
        engine.server.check()


def _met(engine: Engine) -> set[str]:
    return {name.removeprefix("fuzz_") for name in engine.status()["counters"] if name.startswith("fuzz_")}


def test_the_other_engines_text_drafts(engine_of: EngineOf, prompts: list[list[int]]) -> None:
    """A sample whose text another engine has written already takes far fewer steps, on two ranks as well."""
    writer, reader = [engine_of(name) for name in ("ipc", "seer-tp2")]
    prompt = prompts[3]
    alone, again = bodies([prompt], 1, limit=250, ignore_eos=True) * 2
    first = writer.generate(alone)
    before = reader.status()["bus"]["received_tokens"]
    with reader.streaming(endless(prompt)):
        # A request of the group is on the reader: it fetches what the writer wrote before.
        until(lambda: reader.status()["bus"]["received_tokens"] >= before + 250)
        second = reader.generate(again)
        reader.post("/abort_request", {"rid": "endless"})
    assert len(second["output_ids"]) == 250
    assert second["meta_info"]["spec_verify_ct"] < 0.6 * first["meta_info"]["spec_verify_ct"]


def test_a_flush_starts_anew(engine_of: EngineOf, stock: Engine, prompts: list[list[int]]) -> None:
    engines = [engine_of(name) for name in ("ipc", "ipc-fuzzed")]
    asked = bodies(prompts[2:4], SAMPLES)
    wanted = tokens_of(stock.generate_all(asked))
    for _ in range(2):
        assert tokens_of(split(asked, engines)) == wanted
        for engine in engines:
            engine.assert_idle_and_clean()
            until(lambda engine=engine: engine.status()["bus"]["history_tokens"] == 0)


def test_redis_dies_and_returns_under_load(
    engine_of: EngineOf, stock: Engine, redis_server: RedisServer, prompts: list[list[int]]
) -> None:
    """kill -9 while both engines decode: samples stay right, engines notice, and share again once it is back."""
    engines = [engine_of(name) for name in ("redis", "redis-fuzzed")]
    asked = bodies(prompts[::5], SAMPLES, limit=400)
    wanted = tokens_of(stock.generate_all(asked))

    def received() -> int:
        return int(engines[0].status()["bus"]["received_tokens"])

    before = received()
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(split, asked, engines)
        until(lambda: received() > before)
        redis_server.kill()
        assert tokens_of(answers.result()) == wanted
    # Who had nothing more to say has not noticed yet.
    assert tokens_of(split(asked, engines)) == wanted
    until(lambda: not any(engine.status()["bus"]["connected"] for engine in engines))
    redis_server.start()
    until(lambda: all(engine.status()["bus"]["connected"] for engine in engines))
    before = received()

    def shared_again() -> bool:
        assert tokens_of(split(asked, engines)) == wanted
        return received() > before

    until(shared_again)
