"""Timing: our index and one peer at a time, each in its own process, in alternating blocks on the same texts."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.draft import worker
from bench.draft.drafter import Config, PeerUnavailable, Shape
from bench.draft.scale import Case

FILL_LIMIT_S = 1800.0


@dataclass(slots=True)
class Measured:
    """What one process measured."""

    config: Config
    filled: worker.Filled
    blocks: dict[str, list[worker.Block]] = field(default_factory=dict)
    """By shape."""
    stalls: worker.Stalls | None = None


def measure(
    configs: Sequence[Config], shapes: Sequence[Shape], case: Case, path: Path, vocab_size: int
) -> list[Measured]:
    """Fills one index per configuration, one after the other, then runs their blocks in turn.

    Raises PeerUnavailable if one of the systems cannot be had here.
    """
    with _children(configs, shapes[0], case, path, vocab_size) as (connections, results):
        for round_ in range(case.blocks):
            for shape in shapes:
                # Who goes first changes with every round.
                order = list(range(len(configs)))
                for place in order[round_ % len(order) :] + order[: round_ % len(order)]:
                    block = _ask(connections[place], "block", shape.name)
                    results[place].blocks.setdefault(shape.name, []).append(block)
        for connection, result in zip(connections, results, strict=True):
            result.stalls = _ask(connection, "drop")
    return results


@contextmanager
def _children(
    configs: Sequence[Config], shape: Shape, case: Case, path: Path, vocab_size: int
) -> Iterator[tuple[list[Connection], list[Measured]]]:
    context = multiprocessing.get_context("spawn")
    processes, connections, results = [], [], []
    try:
        for config in configs:
            ours, theirs = context.Pipe()
            arguments = (theirs, config, shape, case, path, vocab_size)
            process = context.Process(target=worker.serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            connections.append(ours)
            results.append(Measured(config, _receive(ours)))
        yield connections, results
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.join(60)
            if process.is_alive():
                process.kill()


def _ask(connection: Connection, *command: str) -> Any:
    connection.send(command)
    return _receive(connection)


def _receive(connection: Connection) -> Any:
    if not connection.poll(FILL_LIMIT_S):
        raise RuntimeError(f"a benchmark process did not answer within {FILL_LIMIT_S:.0f} s")
    try:
        answer = connection.recv()
    except EOFError as error:
        raise RuntimeError("a benchmark process ended without an answer (out of memory?)") from error
    if isinstance(answer, PeerUnavailable | RuntimeError):
        raise answer
    return answer
