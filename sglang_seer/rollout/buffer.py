"""The request buffer: every unfinished request is here, waiting or on exactly one engine.

No clock, no HTTP: what happens is told by method calls, so that tests can tell it anything in any order. A request goes
    submit -> waiting -> (assign) running -> (chunk_ended) waiting ... -> finished
and leaves when its last chunk has ended, or with `drop` from either place. Reservations of KV are taken by `assign` and
given back by the end of the chunk, whatever the end was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from sglang_seer.context import Exactly, LengthModel
from sglang_seer.rollout.exact import Plan
from sglang_seer.rollout.listener import ChunkListener
from sglang_seer.rollout.samples import Chunk
from sglang_seer.schedule import Load, Rules, Waiting, WaitingQueue, admit
from sglang_seer.schedule.admission import DEFAULT_RISK
from sglang_seer.schedule.placement import EngineLoad, Placement, PlacementRules, place, placed

_BY_LOAD = attrgetter("load")


@dataclass(slots=True, eq=False)
class Request:
    """One sample on its way. arrival: its number; engine: where its chunk runs, None while it waits.

    listener: whoever wants to know of each of its chunks.
    """

    arrival: int
    group: str
    sample: int
    input_ids: list[int]
    plan: Plan
    seed: int
    metadata: Any = None
    listener: ChunkListener | None = None
    # Tuples: the garbage collector looks at each entry of a list again and again, at those of a tuple once.
    output_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    chunks: list[Chunk] = field(default_factory=list)
    engine: str | None = None
    finished: bool = False
    # Chunks in a row that brought nothing, engines that answered those badly, and engines that refused the request.
    fruitless: int = 0
    avoid: set[str] = field(default_factory=set)
    refusals: dict[str, str] = field(default_factory=dict)
    # Set once it is to end before its time: cancelled, or deadline.
    ends_as: str | None = None
    submitted_s: float = 0.0
    # What it holds on its engine, and its place among the waiting.
    reserved_tokens: int = 0
    load: Load | None = None
    place: Waiting | None = None
    cached_tokens: dict[str, int] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens of prompt and response so far."""
        return len(self.input_ids) + len(self.output_ids)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A chunk that is to start now. reason: why this request went first, where `explains` is set."""

    request: Request
    engine: str
    tokens: int
    placement: Placement
    reason: str = ""


@dataclass(slots=True)
class Counts:
    """What happened; read at any time. moved: chunks that went on elsewhere; gaps: those that left much KV behind.
    pulled_tokens: input that came out of the KV store that engines share; prefilled_again_tokens: that was computed
    before and was found nowhere."""

    chunks: int = 0
    moved: int = 0
    gaps: int = 0
    broken: dict[str, int] = field(default_factory=dict)
    whole: dict[str, int] = field(default_factory=dict)
    pulled_tokens: int = 0
    prefilled_again_tokens: int = 0
    engines_lost: int = 0
    restarted: int = 0

    def add(self, counter: dict[str, int], key: str) -> None:
        counter[key] = counter.get(key, 0) + 1


class RequestBuffer:
    """Requests, engines, and who goes where.

    chunk_tokens: most tokens of a chunk. overflow_risk: chance, with each chunk that starts, that its engine's KV pool
    overflows before the chunks there end; 0 only starts what fits for sure. explains: give the reasons of the order.
    """

    def __init__(
        self,
        lengths: LengthModel,
        *,
        chunk_tokens: int,
        overflow_risk: float = DEFAULT_RISK,
        rules: Rules | None = None,
        placement: PlacementRules | None = None,
    ) -> None:
        if chunk_tokens < 1:
            raise ValueError(f"chunk_tokens: got {chunk_tokens}, wanted at least 1")
        self.lengths = lengths
        self.chunk_tokens = chunk_tokens
        self.counts = Counts()
        self.explains = False
        self._risk = overflow_risk
        self._placement = placement or PlacementRules()
        self._queue = WaitingQueue(lengths, rules)
        self._waiting: dict[int, Request] = {}
        self._running: dict[int, Request] = {}
        self._running_of_group: dict[str, int] = {}
        self._admitted = 0
        self._engines: dict[str, EngineLoad] = {}
        self._on: dict[str, dict[int, Request]] = {}
        # How often who runs there changed, and what was last found too much: (changes, capacity, load).
        self._changes: dict[str, int] = {}
        self._refused: dict[str, tuple[int, int, Load]] = {}
        self._up: set[str] = set()
        # Prompts that an engine holds once for all siblings: (engine, group) -> members running there.
        self._sharing: dict[tuple[str, str], int] = {}
        # Where a group's prompt was computed.
        self._prompt_at: dict[str, dict[str, int]] = {}
        self._members: dict[str, int] = {}

    # Engines

    def add_engine(self, name: str, *, capacity_tokens: int, slots: int) -> EngineLoad:
        """An engine that takes chunks from now on. Raises ValueError for a name that is there."""
        if name in self._engines:
            raise ValueError(f"engine {name} is there already")
        self._engines[name] = EngineLoad(name, capacity_tokens, slots)
        self._on[name] = {}
        self._changes[name] = 0
        self._up.add(name)
        return self._engines[name]

    def set_up(self, name: str, up: bool) -> None:
        """An engine that is not up gets no chunks; what it had cached counts as lost."""
        if up:
            self._up.add(name)
        elif name in self._up:
            self._up.discard(name)
            self.counts.engines_lost += 1
            self._forget(name)

    def remove_engine(self, name: str) -> None:
        """Takes it out once its chunks have ended. Raises ValueError while some run there."""
        if (running := self._engines[name].in_flight) > 0:
            raise ValueError(f"engine {name}: {running} chunks run there still")
        del self._engines[name], self._on[name], self._changes[name]
        self._refused.pop(name, None)
        self._up.discard(name)
        self._forget(name)

    def _forget(self, name: str) -> None:
        for request in self._requests():
            request.cached_tokens.pop(name, None)
        for cached in self._prompt_at.values():
            cached.pop(name, None)

    @property
    def engines(self) -> dict[str, EngineLoad]:
        """Live: read only."""
        return self._engines

    @property
    def up(self) -> set[str]:
        """Names of the engines that take chunks. Live: read only."""
        return self._up

    # Requests

    def _requests(self) -> Iterable[Request]:
        yield from self._waiting.values()
        yield from self._running.values()

    def __len__(self) -> int:
        """Unfinished requests."""
        return len(self._waiting) + len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def unfinished(self) -> list[Request]:
        """All of them, by arrival."""
        return sorted(self._requests(), key=lambda request: request.arrival)

    def on_engine(self, name: str) -> list[Request]:
        """Those whose chunk runs there."""
        return list(self._on[name].values())

    def expected_left_tokens(self, request: Request) -> float:
        """Of an unfinished request, as its group is estimated; at least 1."""
        whole = self.lengths.expected_tokens(request.group, request.plan.limit)
        return max(whole - len(request.output_ids), 1.0)

    def submit(self, request: Request) -> None:
        """Takes a request, new or begun in an earlier run."""
        self._members[request.group] = self._members.get(request.group, 0) + 1
        for reason in request.plan.whole:
            self.counts.add(self.counts.whole, reason)
        self._wait(request)

    def _wait(self, request: Request) -> None:
        request.place = Waiting(
            request.arrival, request.group, len(request.output_ids), request.plan.limit, self._admitted
        )
        self._queue.add(request.place)
        self._waiting[request.arrival] = request

    def assign(self, doubted: Collection[str] = ()) -> list[Assignment]:
        """Chunks to start now, best first: until no engine has room, or nobody waits.

        doubted: engines that get none for now.
        """
        if not self._waiting:
            return []
        engines = [self._engines[name] for name in self._engines if name in self._up and name not in doubted]
        room = sum(max(engine.slots - engine.in_flight - engine.outside, not engine.in_flight) for engine in engines)
        if room <= 0:
            return []
        decision = self._queue.decide(self._running_of_group, self._admitted)
        # Engines that have no memory for one request are not asked for the next: it would pass by.
        full: set[str] = set()
        assigned = []
        for number, entry in enumerate(decision.order):
            request = self._waiting[entry.arrival]
            placement = self._place(request, engines, full)
            if placement is None:
                break
            assigned.append(self._start(request, placement, decision.reason(number) if self.explains else ""))
        return assigned

    def _place(self, request: Request, engines: Sequence[EngineLoad], full: set[str]) -> Placement | None:
        # An engine that did not serve it is asked again only if none else is there.
        if request.refusals or request.avoid:
            bad = request.avoid.union(request.refusals)
            engines = [engine for engine in engines if engine.name not in bad] or engines
        cached = request.cached_tokens or self._prompt_at.get(request.group, {})
        need = self._need_tokens(request)
        placement = place(need, cached, engines, self._placement)
        if placement is not None or not self._risk:
            return placement
        for engine in sorted((one for one in engines if one.has_slot and one.name not in full), key=_BY_LOAD):
            if self._admits(engine, request):
                return placed(engine, "load", cached, self._placement)
            full.add(engine.name)
        # More may be known of it when it is asked for again.
        request.load = None
        return None

    def _admits(self, engine: EngineLoad, request: Request) -> bool:
        # Siblings that run on one engine share their prompt, so prompts are taken from the pool apart.
        prompts = engine.prompt_tokens
        if (engine.name, request.group) not in self._sharing:
            prompts += len(request.input_ids)
        capacity = engine.capacity_tokens - engine.outside_tokens - prompts
        question = (self._changes[engine.name], capacity, self._load(request))
        if self._refused.get(engine.name) == question:
            return False
        running = [self._load(one) for one in self._on[engine.name].values()]
        if capacity > 0 and admit(running, [self._load(request)], capacity, risk=self._risk):
            return True
        self._refused[engine.name] = question
        return False

    def _load(self, request: Request) -> Load:
        """What its chunk will hold besides its prompt; kept until the chunk has ended."""
        if request.load is None:
            generated, limit = len(request.output_ids), request.plan.limit
            remaining = self.lengths.remaining(request.group, generated, limit, member=request.arrival)
            chunk = None if request.plan.whole else self.chunk_tokens
            ends = Exactly(limit - generated) if request.plan.sampling.get("ignore_eos") else remaining
            request.load = Load.of(generated, ends, chunk_tokens=chunk, group=request.group)
        return request.load

    def _need_tokens(self, request: Request) -> int:
        # What runs whole is counted as a chunk as well: its whole limit would keep an engine empty for it.
        generated = len(request.output_ids)
        return request.length + min(request.plan.limit - generated, self.chunk_tokens)

    def _start(self, request: Request, placement: Placement, reason: str) -> Assignment:
        engine = placement.engine
        assert request.place is not None and request.engine is None
        self._queue.remove(request.place)
        request.place = None
        del self._waiting[request.arrival]
        self._running[request.arrival] = self._on[engine.name][request.arrival] = request
        self._running_of_group[request.group] = self._running_of_group.get(request.group, 0) + 1
        self._admitted += 1
        self._changes[engine.name] += 1
        need = self._need_tokens(request)
        shared = (engine.name, request.group)
        siblings = self._sharing.get(shared, 0)
        self._sharing[shared] = siblings + 1
        if not siblings:
            engine.prompt_tokens += len(request.input_ids)
            engine.reserved_tokens += len(request.input_ids)
        request.reserved_tokens = need - len(request.input_ids)
        engine.reserved_tokens += request.reserved_tokens
        engine.in_flight += 1
        request.engine = engine.name
        self.counts.chunks += 1
        if request.chunks and request.chunks[-1].engine != engine.name:
            self.counts.moved += 1
            self.counts.gaps += placement.pull_from is not None
        tokens = request.plan.chunk_tokens(len(request.output_ids), self.chunk_tokens)
        return Assignment(request, engine.name, tokens, placement, reason)

    def _stop_running(self, request: Request) -> None:
        assert request.engine is not None
        engine = self._engines[request.engine]
        shared = (engine.name, request.group)
        self._sharing[shared] -= 1
        if not self._sharing[shared]:
            del self._sharing[shared]
            engine.prompt_tokens -= len(request.input_ids)
            engine.reserved_tokens -= len(request.input_ids)
        engine.reserved_tokens -= request.reserved_tokens
        engine.in_flight -= 1
        self._changes[engine.name] += 1
        request.reserved_tokens, request.engine, request.load = 0, None, None
        del self._running[request.arrival], self._on[engine.name][request.arrival]
        self._running_of_group[request.group] -= 1
        if not self._running_of_group[request.group]:
            del self._running_of_group[request.group]

    def chunk_ended(
        self,
        request: Request,
        chunk: Chunk,
        output_ids: Sequence[int],
        logprobs: Sequence[float] | None,
        *,
        finished: bool = False,
    ) -> None:
        """Its chunk is over, for whatever reason, and brought these tokens; the request waits again, or is finished.

        Raises ValueError for tokens beyond the limit.
        """
        if len(request.output_ids) + len(output_ids) > request.plan.limit:
            raise ValueError(f"{len(output_ids)} tokens after {len(request.output_ids)}: limit {request.plan.limit}")
        name = request.engine
        assert name is not None
        self._stop_running(request)
        self.counts.pulled_tokens += chunk.pulled_tokens
        if request.output_ids and output_ids:
            self.counts.prefilled_again_tokens += max(chunk.input_tokens - chunk.cached_tokens - 1, 0)
        request.output_ids += tuple(output_ids)
        request.logprobs += tuple(logprobs or ())
        request.chunks.append(chunk)
        request.fruitless += 1
        if output_ids:
            request.fruitless = 0
            request.avoid.clear()
        if finished:
            self._leave(request, complete=True)
            return
        if output_ids and name in self._up:
            request.cached_tokens[name] = request.length
            self._prompt_at.setdefault(request.group, {})[name] = len(request.input_ids)
        self.lengths.progress(request.group, request.arrival, len(request.output_ids))
        self._wait(request)

    def restart(self, request: Request) -> None:
        """Throws away what a waiting request generated: its weights are gone."""
        assert request.place is not None
        self._queue.remove(request.place)
        request.output_ids, request.logprobs = (), ()
        request.chunks.clear()
        request.cached_tokens.clear()
        self.counts.restarted += 1
        self.lengths.lost(request.group, request.arrival)
        self._wait(request)

    def new_weights(self) -> None:
        """Lengths and cached prefixes of the weights before tell nothing any more."""
        self.lengths.clear()
        self._prompt_at.clear()
        for request in self._requests():
            request.cached_tokens.clear()

    def drop(self, request: Request) -> None:
        """Takes an unfinished request out: it was cancelled, or cannot be served."""
        if request.engine is not None:
            self._stop_running(request)
        else:
            assert request.place is not None
            self._queue.remove(request.place)
            request.place = None
            del self._waiting[request.arrival]
        self._leave(request, complete=False)

    def _leave(self, request: Request, *, complete: bool) -> None:
        assert not request.finished
        request.finished = True
        if complete:
            self.lengths.finish(
                request.group, len(request.output_ids), member=request.arrival, limit_tokens=request.plan.limit
            )
        else:
            self.lengths.lost(request.group, request.arrival)
        self._members[request.group] -= 1
        if not self._members[request.group]:
            del self._members[request.group]
            self._prompt_at.pop(request.group, None)
