"""Stand-in: spans are kept on the sample, so that a test can look at them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KEYS = ("prompt_tokens", "completion_tokens", "cached_tokens", "queue_time", "e2e_latency", "decode_throughput")


@contextmanager
def trace_span(target: Any, name: str, *, attrs: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    span = {"name": name, **(attrs or {})}
    target.trace = [*getattr(target, "trace", []), span]
    yield span


def build_sglang_meta_trace_attrs(meta: dict[str, Any]) -> dict[str, Any]:
    return {key: meta[key] for key in KEYS if meta.get(key) is not None}
