"""Times of GPU work in microseconds, and how fast this GPU reads memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARMUPS = 3
REPETITIONS = 20
# More than the second-level cache of any GPU: written between runs, so that each finds its logits in memory.
_FLUSH_BYTES = 512 << 20
_PROBE_BYTES = 4 << 30


def time_us(run: Callable[[], object], flush: torch.Tensor, repetitions: int = REPETITIONS) -> list[float]:
    """One time for each of some runs, by events around the call; launches are part of it where they take longer."""
    for _ in range(WARMUPS):
        run()
    times = []
    for _ in range(repetitions):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000.0)
    return times


def graph_of(run: Callable[[], object]) -> Callable[[], object]:
    """The call as a captured CUDA graph: time on the GPU alone. Raises RuntimeError if it waits for the host."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def flush_buffer() -> torch.Tensor:
    return torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda")


def read_bytes_per_us(flush: torch.Tensor) -> float:
    """The better of a sum's and a copy's rate over a few gigabytes."""
    probe = torch.ones(_PROBE_BYTES // 4, dtype=torch.float32, device="cuda")
    target = torch.empty_like(probe)
    reading = min(time_us(lambda: probe.sum(), flush))
    copying = min(time_us(lambda: target.copy_(probe), flush))
    return max(_PROBE_BYTES / reading, 2 * _PROBE_BYTES / copying)
