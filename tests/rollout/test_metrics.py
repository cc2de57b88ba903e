"""What Prometheus sees of a rollout on stand-in engines."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import requests
from prometheus_client.parser import text_string_to_metric_families

from sglang_seer.demo.servers import HOST, pick_port
from sglang_seer.rollout import RolloutController
from sglang_seer.rollout.metrics import PREFIX, served
from tests.rollout.fleet_of_stubs import Arrivals, config, prompts, stubs, until
from tests.rollout.test_command import call, command, write


def scraped(port: int) -> dict[str, float]:
    """Value by name and labels, without the prefix."""
    text = requests.get(f"http://{HOST}:{port}/metrics", timeout=10).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name.removeprefix(PREFIX) + "".join(sample.labels.values()): sample.value for sample in samples}


async def test_a_scrape_says_what_the_controller_counts() -> None:
    """One engine dies, so that chunks move, break off and are computed again."""
    port = pick_port(None)
    async with (
        stubs(2, seconds_per_token=0.002) as engines,
        RolloutController([engine.url for engine in engines], config=config()) as rollout,
        served(rollout, HOST, port),
    ):
        assert (await asyncio.to_thread(scraped, port))["engines_up"] == 2
        arrivals = Arrivals(rollout)

        async def kill() -> None:
            await until(lambda: arrivals.on(engines[0].url) > 0)
            await engines[0].kill()
            await until(lambda: rollout.buffer.up == {engines[1].url})

        task = asyncio.create_task(kill())
        async for _ in rollout.samples(prompts(8)):
            pass
        await task
        seen, counts = await asyncio.to_thread(scraped, port), rollout.counts
        assert seen["chunks_total"] == counts.chunks > 32
        assert seen["migrations_total"] == counts.moved > 0
        assert seen["prefilled_again_tokens_total"] == counts.prefilled_again_tokens > 0
        assert seen["generated_tokens_total"] == rollout.generated_tokens > 0
        broken = {name: value for name, value in seen.items() if name.startswith("broken_chunks_total")}
        assert sum(broken.values()) == sum(counts.broken.values()) > 0
        assert (seen["waiting_requests"], seen["running_requests"], seen["engines_up"]) == (0, 0, 1)
    # The port is given back.
    assert pick_port(port) == port


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    write(tmp_path / "prompts.jsonl", prompts(1))
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with stubs(1) as engines:
            status, printed = await call(command(engines, tmp_path, "--metrics-port", str(port)))
    assert status == 2
    assert f"--metrics-port {port}: wanted a free port" in printed


async def test_the_command_serves_while_it_runs(tmp_path: Path) -> None:
    write(tmp_path / "prompts.jsonl", prompts(6))
    port = pick_port(None)
    async with stubs(1, seconds_per_token=0.02, slots=1) as (engine,):
        running = asyncio.create_task(call(command([engine], tmp_path, "--metrics-port", str(port))))
        # One chunk has ended, and no more begin until it was asked for what it counts.
        await until(lambda: bool(engine.cache))
        engine.behaviour.slots = 0
        seen: dict[str, float] = {}
        while not seen.get("generated_tokens_total"):
            assert not running.done(), await running
            await asyncio.sleep(0.05)
            try:
                seen = await asyncio.to_thread(scraped, port)
            except (requests.ConnectionError, requests.Timeout):
                continue
        assert not running.done()
        engine.behaviour.slots, engine.behaviour.seconds_per_token = 100, 0.0
        engine.admit()
        status, printed = await running
    assert status == 0, printed
