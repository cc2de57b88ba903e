"""Engines as processes: each writes responses at a given speed, takes those of its siblings, and times both.

An engine is a process that does what a decode step does for sharing: publish, take, append to the index. The rest of a
step is sleep. The clock is the machine's monotonic one, which all processes share.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
import numpy.typing as npt

from sglang_seer.draft import SuffixIndex
from sglang_seer.draft.bus import deltas, share_text

VOCAB_SIZE = 150_000
START_LIMIT_S = 60.0
# What is written last still has to arrive.
SETTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """writers: engines that write, each `requests` responses in `groups` groups at `tokens_per_s` tokens a second.

    readers: engines that only read. warm_s: not measured.
    """

    name: str
    writers: int
    readers: int
    groups: int
    requests: int
    tokens_per_s: float
    step_s: float = 0.05
    warm_s: float = 3.0
    seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one engine. cpu: seconds of the bus thread, of publishing, of taking, of the index, and measured seconds.

    written, read: [n, 4] group, request, offset behind the piece, and microseconds of the clock.
    """

    cpu: dict[str, float]
    written: npt.NDArray[np.int64]
    read: npt.NDArray[np.int64]
    status: dict[str, Any]


def run(load: Load, url: str) -> list[Seen]:
    """The writers' results, then the readers'. Raises RuntimeError if an engine ends without one."""
    context = multiprocessing.get_context("spawn")
    count = load.writers + load.readers
    barrier = context.Barrier(count)
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [
        context.Process(target=_engine, args=(load, url, number, barrier, pipes[number][1]), daemon=True)
        for number in range(count)
    ]
    for process in processes:
        process.start()
    try:
        limit_s = START_LIMIT_S + load.warm_s + load.seconds + SETTLE_S
        found = []
        for receiver, sender in pipes:
            sender.close()
            if not receiver.poll(limit_s):
                raise RuntimeError(f"bus load {load.name}: an engine was not done after {limit_s:.0f} s")
            found.append(receiver.recv())
    except EOFError:
        raise RuntimeError(f"bus load {load.name}: an engine ended early") from None
    finally:
        for process in processes:
            process.terminate()
            process.join()
    return found


def latency_ms(seen: Sequence[Seen]) -> npt.NDArray[np.float64]:
    """Of all pieces and readers: from publishing a piece to having appended it at a step's start."""
    written = {tuple(row[:3]): row[3] for one in seen for row in one.written.tolist()}
    ends = [row for one in seen for row in one.read.tolist()]
    return np.array([(row[3] - at) / 1e3 for row in ends if (at := written.get(tuple(row[:3]))) is not None])


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("publish", "take", "index"), 0.0)

    def add(self, name: str, since_s: float) -> float:
        now_s = time.thread_time()
        self.seconds[name] += now_s - since_s
        return now_s


def _engine(load: Load, url: str, number: int, barrier: Barrier, results: Any) -> None:
    rng = np.random.default_rng(number)
    writes = number < load.writers
    index = SuffixIndex(vocab_size=VOCAB_SIZE)
    for group in range(load.groups):
        index.open_group(group, np.arange(16))
    shared = share_text(url, version=1, vocab_size=VOCAB_SIZE)
    assert shared is not None
    shared.subscribe(range(load.groups))
    requests = np.arange(load.requests) + number * load.requests
    groups = requests % load.groups
    per_step = load.tokens_per_s * load.step_s
    offsets = np.zeros(load.requests, dtype=np.int64)
    written: list[npt.NDArray[np.int64]] = []
    read: list[npt.NDArray[np.int64]] = []
    watch = _Stopwatch()
    barrier.wait(START_LIMIT_S)
    start_s = time.monotonic()
    begun, process_s, thread_s = False, 0.0, 0.0
    step = 0
    while (now_s := time.monotonic() - start_s) < load.warm_s + load.seconds + SETTLE_S:
        if not begun and now_s >= load.warm_s:
            begun, watch = True, _Stopwatch()
            process_s, thread_s = _process_s(), time.thread_time()
        since_s = time.thread_time()
        text = shared.take(1 << 20).text
        since_s = watch.add("take", since_s)
        if len(text):
            index.append(text.groups, -1 - text.requests, text.offsets, text.tokens, text.lengths)
            watch.add("index", since_s)
            read.append(_stamped(text.groups, text.requests, text.ends))
        if writes and now_s < load.warm_s + load.seconds:
            counts = rng.poisson(per_step, load.requests)
            some = counts > 0
            tokens = rng.zipf(1.2, int(counts.sum())) % VOCAB_SIZE
            since_s = time.thread_time()
            shared.publish(deltas(groups[some], requests[some], offsets[some], counts[some], tokens))
            watch.add("publish", since_s)
            offsets += counts
            written.append(_stamped(groups[some], requests[some], offsets[some]))
        step += 1
        time.sleep(max(start_s + step * load.step_s - time.monotonic(), 0.0))
    own_s = time.thread_time() - thread_s
    cpu = {**watch.seconds, "bus": _process_s() - process_s - own_s, "seconds": load.seconds}
    status = shared.status()
    results.send(Seen(cpu, _together(written), _together(read), status))
    shared.close()


def _process_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _stamped(groups: Any, requests: Any, ends: Any) -> npt.NDArray[np.int64]:
    now = np.full(len(groups), int(time.monotonic() * 1e6), dtype=np.int64)
    return np.stack([groups, requests, ends, now], axis=1)


def _together(parts: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros((0, 4), dtype=np.int64)
