"""One system in a process of its own: its memory is the growth of that process, its CPU time that process's."""

from __future__ import annotations

import ctypes
import gc
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from bench.draft import scale, systems
from bench.draft.drafter import SHAPES, Config, Drafter, PeerUnavailable, Shape
from bench.draft.timing import Stopwatch, Times

BULK = 512
"""Tokens a request and call with which a peer is filled; ours is filled in steps of 2, so that its stalls are seen."""
WARM_STEPS = scale.UNTIMED_STEPS - 1


@dataclass(slots=True)
class Filled:
    tokens: int
    rss_bytes: int
    reported_bytes: int | None


@dataclass(slots=True)
class Block:
    """Times of one block of steps with one shape, and how many nodes a request's draft had in its last step."""

    draft: Times
    append: Times
    nodes: float


@dataclass(slots=True)
class Stalls:
    """The longest single call of each kind in milliseconds, CPU and wall."""

    worst_ms: dict[str, float]
    worst_wall_ms: dict[str, float]


class Session:
    """A filled index and its requests."""

    def __init__(self, config: Config, shape: Shape, case: scale.Case, path: Path, vocab_size: int) -> None:
        self.requests = scale.read(case, path)
        self._case = case
        self._rng = np.random.default_rng(0)
        self._stalls = Stopwatch()
        # What an extension loads on first use is not the index's memory.
        systems.make(config, shape, vocab_size=vocab_size, capacity_tokens=10)
        give_back_free_memory()
        before = rss_bytes()
        capacity = sum(len(request.tokens) for request in self.requests)
        self.drafter: Drafter = systems.make(config, shape, vocab_size=vocab_size, capacity_tokens=capacity)
        self._fill(2 if config.system == "seer" else BULK)
        self.filled = Filled(
            tokens=case.requests * case.tokens + case.groups * scale.PROMPT_TOKENS,
            rss_bytes=rss_bytes() - before,
            reported_bytes=self.drafter.reported_bytes(),
        )

    def _fill(self, step: int) -> None:
        # A bulk call is long because it does much, which is no stall.
        watch = self._stalls if step < BULK else Stopwatch()
        for request in self.requests:
            self._stalls.call("open", 1, self.drafter.open, [request])
        while (missing := self._case.tokens - (self.requests[0].known - scale.PROMPT_TOKENS)) > 0:
            self._append(watch, [min(step, missing)] * len(self.requests))

    def _append(self, watch: Stopwatch, counts: Sequence[int]) -> None:
        for request, count in zip(self.requests, counts, strict=True):
            request.known += count
        args = self.drafter.append_args(self.requests, counts)
        watch.call("append", sum(counts), self.drafter.append, args)

    def block(self, shape: Shape) -> Block:
        """Timed steps after untimed ones."""
        self.drafter.reshape(shape)
        watch = Stopwatch()
        for step in range(self._case.steps + WARM_STEPS):
            if step == WARM_STEPS:
                watch = Stopwatch()
            counts = self._rng.integers(1, 4, len(self.requests)).tolist()
            self._append(watch, counts)
            args = self.drafter.propose_args(self.requests)
            proposed = watch.call("propose", len(self.requests), self.drafter.propose, args)
        nodes = len(self.drafter.drafts(proposed).tokens) / len(self.requests)
        if self.drafter.batched:
            self._stalls.merge(watch)
        else:
            self._single_calls()
        return Block(watch.kinds["propose"], watch.kinds["append"], nodes)

    def _single_calls(self) -> None:
        counts = [2] * len(self.requests)
        for request in self.requests:
            request.known += 2
        for one in self.drafter.append_args(self.requests, counts):
            self._stalls.call("append", 2, self.drafter.append, [one])
        for one in self.drafter.propose_args(self.requests):
            self._stalls.call("propose", 1, self.drafter.propose, [one])

    def drop(self) -> Stalls:
        """Ends all requests and forgets them: half of the first group one by one, the others by group if possible."""
        siblings = self._case.siblings
        groups = [self.requests[i : i + siblings] for i in range(0, len(self.requests), siblings)]
        for request in self.requests:
            self._stalls.call("finish", 1, self.drafter.finish, request)
        if self.drafter.drops == "nothing":
            return self._worst()
        if self.drafter.drops == "sequences":
            for request in self.requests:
                self._stalls.call("drop_sequence", 1, self.drafter.drop_sequence, request)
            return self._worst()
        singles, rest = groups[0][: siblings // 2], groups[0][siblings // 2 :]
        for request in singles:
            self._stalls.call("drop_sequence", 1, self.drafter.drop_sequence, request)
        for group in [rest, *groups[1:]]:
            self._stalls.call("drop_group", 1, self.drafter.drop_group, group)
        return self._worst()

    def _worst(self) -> Stalls:
        return Stalls(self._stalls.worst_ms(), self._stalls.worst_ms("wall_ns"))


def give_back_free_memory() -> None:
    """Freed memory that the allocator keeps would hide growth that happens in it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def rss_bytes() -> int:
    """Anonymous memory of this process that is resident."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status holds no RssAnon line; this benchmark needs Linux")


def serve(connection: Connection, config: Config, shape: Shape, case: scale.Case, path: Path, vocab_size: int) -> None:
    """The child's side: fills, then answers `("block", shape name)` and `("drop",)` until the parent hangs up."""
    try:
        session = Session(config, shape, case, path, vocab_size)
        connection.send(session.filled)
        shapes = {one.name: one for one in SHAPES}
        while True:
            command, *arguments = connection.recv()
            connection.send(session.block(shapes[arguments[0]]) if command == "block" else session.drop())
    except EOFError:
        # The parent has what it wanted.
        return
    except PeerUnavailable as error:
        connection.send(error)
    except Exception:
        connection.send(RuntimeError(traceback.format_exc()))
        raise
