"""What sharing is worth: recorded responses replayed over several engines, each with an index of its own.

Sample i of a group runs on engine i modulo their number. Time counts in decode steps, so the lag is exact and no clock
is read; what crosses is packed, unpacked and assembled by the bus's own code. All engines step together.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.draft.drafter import Drafts, Request, Shape
from bench.draft.replay import replay
from bench.draft.systems.seer import Seer
from bench.draft.tokens import TokenGroup
from sglang_seer.draft import SuffixIndex
from sglang_seer.draft.bus import Deltas, deltas
from sglang_seer.draft.bus.assembly import Assembler
from sglang_seer.draft.bus.wire import Text, pack, text_deltas, text_frames, unpack

SHAPE = Shape("tree16", 16)


@dataclass(slots=True)
class Engine:
    """index: also behind `drafter`, which prepares its calls. under_way: (step at which it arrives, messages)."""

    index: SuffixIndex
    drafter: Seer
    assembler: Assembler
    under_way: deque[tuple[int, list[bytes]]]


@dataclass(frozen=True, slots=True)
class Placed:
    """Of one call: which requests each engine has, as places in the batch, and what was made for it."""

    engine: int
    places: list[int]
    made: Any


class SplitDrafter:
    """One drafter to `replay`: that of the engine where a request runs."""

    batched = True
    drops: Literal["nothing", "sequences", "groups"] = "nothing"

    def __init__(self, engines: int, lag_steps: int | None, vocab_size: int) -> None:
        """lag_steps: from generating text to drafting from it elsewhere; None shares nothing."""
        self._lag_steps = lag_steps
        self._engines = []
        for _ in range(engines):
            index = SuffixIndex(vocab_size=vocab_size)
            self._engines.append(Engine(index, Seer(index, SHAPE), Assembler(vocab_size=vocab_size), deque()))
        self._members: Counter[int] = Counter()
        self._place: dict[int, int] = {}
        self._step = 0

    def reshape(self, shape: Shape) -> bool:
        return shape == SHAPE

    def open(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._place[request.id] = self._members[request.group] % len(self._engines)
            self._members[request.group] += 1
            engine = self._engines[self._place[request.id]]
            engine.drafter.open([request])
            engine.assembler.follow(request.group)

    def append_args(self, requests: Sequence[Request], counts: Sequence[int]) -> list[Placed]:
        return [
            Placed(engine, places, self._engines[engine].drafter.append_args(mine, [counts[i] for i in places]))
            for engine, places, mine in self._split(requests)
        ]

    def append(self, args: Sequence[Placed]) -> None:
        for placed in args:
            self._engines[placed.engine].drafter.append(placed.made)
            if self._lag_steps is not None:
                groups, ids, offsets, tokens, lengths = placed.made
                self._send(placed.engine, deltas(groups, ids, offsets, lengths, tokens))

    def propose_args(self, requests: Sequence[Request]) -> list[Placed]:
        return [
            Placed(engine, places, self._engines[engine].drafter.propose_args(mine))
            for engine, places, mine in self._split(requests)
        ]

    def propose(self, args: Sequence[Placed]) -> list[Placed]:
        self._step += 1
        self._deliver()
        return [Placed(one.engine, one.places, self._engines[one.engine].drafter.propose(one.made)) for one in args]

    def drafts(self, proposed: Sequence[Placed]) -> Drafts:
        trees: dict[int, tuple[list[int], list[int]]] = {}
        for placed in proposed:
            one = placed.made
            starts = one.starts.tolist()
            for place, start, stop in zip(placed.places, starts, starts[1:], strict=False):
                trees[place] = one.tokens[start:stop].tolist(), one.parents[start:stop].tolist()
        ordered = [trees[place] for place in range(len(trees))]
        starts = np.cumsum([0, *(len(tokens) for tokens, _ in ordered)]).tolist()
        return Drafts([t for one, _ in ordered for t in one], [p for _, one in ordered for p in one], starts, None)

    def observe(self, proposed: Sequence[Placed], accepted: Sequence[Sequence[int]]) -> None:
        for placed in proposed:
            self._engines[placed.engine].drafter.observe(placed.made, [accepted[place] for place in placed.places])

    def finish(self, request: Request) -> None:
        """Its siblings still draw on it."""

    def drop_sequence(self, request: Request) -> None:
        raise NotImplementedError("nothing is dropped in a replay")

    def drop_group(self, requests: Sequence[Request]) -> None:
        raise NotImplementedError("nothing is dropped in a replay")

    def reported_bytes(self) -> int:
        return sum(engine.index.memory_bytes for engine in self._engines)

    def _split(self, requests: Sequence[Request]) -> list[tuple[int, list[int], list[Request]]]:
        chosen: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            chosen.setdefault(self._place[request.id], []).append(place)
        return [(engine, places, [requests[i] for i in places]) for engine, places in sorted(chosen.items())]

    def _send(self, sender: int, new: Deltas) -> None:
        assert self._lag_steps is not None
        # Text of this step is there at the next one when nothing lags.
        due = self._step + 1 + self._lag_steps
        messages = [pack(frame) for frame in text_frames(0, sender, new.merged())]
        for place, engine in enumerate(self._engines):
            if place != sender:
                engine.under_way.append((due, messages))

    def _deliver(self) -> None:
        for engine in self._engines:
            while engine.under_way and engine.under_way[0][0] <= self._step:
                for message in engine.under_way.popleft()[1]:
                    frame = unpack(message)
                    assert isinstance(frame, Text)
                    new = text_deltas(frame)
                    served = np.fromiter((group in engine.assembler for group in new.groups.tolist()), bool, len(new))
                    new = engine.assembler.add(new.select(served), 0.0)
                    engine.index.append(new.groups, -1 - new.requests, new.offsets, new.tokens, new.lengths)


def acceptance(groups: Sequence[TokenGroup], *, engines: int, lag_steps: int | None, vocab_size: int) -> float:
    """Tokens a verification step, bonus included."""
    return replay(SplitDrafter(engines, lag_steps, vocab_size), groups, SHAPE).total.acceptance
