"""Prometheus metrics of a rollout, served by prometheus_client's own HTTP server while the rollout runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sglang_seer.rollout.controller import RolloutController

PREFIX = "sglang_seer_rollout_"


class RolloutCollector(Collector):
    """Reads the controller when it is scraped, in the server's thread: copies of counters, nothing else."""

    def __init__(self, rollout: RolloutController) -> None:
        self._rollout = rollout

    def collect(self) -> Iterator[Metric]:
        counts, buffer = self._rollout.counts, self._rollout.buffer
        counters = {
            "chunks": ("Chunks that started.", counts.chunks),
            "migrations": ("Chunks that went on at another engine than the one before.", counts.moved),
            "prefilled_again_tokens": (
                "Tokens of earlier chunks that an engine computed again.",
                counts.prefilled_again_tokens,
            ),
            "generated_tokens": ("Tokens of chunks that have ended.", self._rollout.generated_tokens),
            "engines_lost": ("Times that an engine was lost.", counts.engines_lost),
            "restarted_requests": ("Requests that began anew.", counts.restarted),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(PREFIX + name, text, value=value)
        broken = CounterMetricFamily(PREFIX + "broken_chunks", "Chunks that broke off.", labels=["reason"])
        for reason, count in dict(counts.broken).items():
            broken.add_metric([reason], count)
        yield broken
        gauges = {
            "waiting_requests": ("Requests in the buffer.", buffer.waiting),
            "running_requests": ("Requests on an engine.", buffer.running),
            "engines_up": ("Engines that get chunks.", len(buffer.up)),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(PREFIX + name, text, value=value)


@asynccontextmanager
async def served(rollout: RolloutController, host: str, port: int | None) -> AsyncIterator[None]:
    """Serve /metrics at host and port inside the block; nothing without a port.

    Raises ValueError where nothing can listen there.
    """
    if port is None:
        yield
        return
    registry = CollectorRegistry()
    registry.register(RolloutCollector(rollout))
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        raise ValueError(f"--metrics-port {port}: wanted a free port on {host}: {error}") from error
    try:
        yield
    finally:
        # It waits for a thread that looks up every half second.
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()
