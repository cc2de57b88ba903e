"""Places for chunks that others run: the request buffer for clients which speak to the engines themselves.

A client takes a place, runs the chunk there, and gives the place back with what came of it:
    place = await desk.take(ask) -> run on place.engine -> desk.give_back(ask.key, report) -> take again, or done
Lengths travel and not tokens. Order, placement and reservations are the request buffer's, as for the controller.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import NamedTuple

import msgspec

from sglang_seer.context import ContextLengths
from sglang_seer.rollout.buffer import Request, RequestBuffer
from sglang_seer.rollout.client import RolloutError
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.exact import Plan
from sglang_seer.rollout.passes import assignments
from sglang_seer.rollout.samples import Chunk

log = logging.getLogger(__name__)

# Sessions whose last engine is remembered for their next turn.
MOST_SESSIONS = 10_000


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A place for the next chunk of a request. key: of the request, the same for all its chunks. session: of the
    conversation whose turn it is: its prefix is on the engine of the turn before. limit: most tokens of all chunks
    together. whole: why it is not cut, empty if it is."""

    key: str
    group: str
    sample: int
    session: str
    input_tokens: int
    limit: int
    whole: tuple[str, ...] = ()
    ignore_eos: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a chunk. tokens: kept. end: as of `Chunk`. finished: the request ended with it; dropped: it ended
    without a sample. blame: the engine answered badly; lost: it is gone for good."""

    tokens: int = 0
    end: str = "length"
    finished: bool = False
    dropped: bool = False
    blame: bool = False
    lost: bool = False
    weight_version: str | None = None


class Place(NamedTuple):
    """Where a chunk runs, and most tokens of it."""

    engine: str
    tokens: int


class Desk:
    """Start `run` once; everything else is told by calls from the same event loop."""

    def __init__(self, config: RolloutConfig) -> None:
        self.config = config
        self.weight_version: str | None = None
        self.weight_updates = 0
        self.buffer = RequestBuffer(
            ContextLengths(),
            chunk_tokens=config.chunk_tokens,
            overflow_risk=config.overflow_risk,
            rules=config.rules,
            placement=config.placement,
        )
        self._wake = asyncio.Event()
        self._requests: dict[str, Request] = {}
        self._places: dict[str, asyncio.Future[Place]] = {}
        self._keys: dict[int, str] = {}
        self._arrivals = 0
        self._sessions: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._session_of: dict[str, str] = {}
        self._leaving: set[str] = set()
        self._strikes: dict[str, int] = {}
        self._last_error: dict[str, str] = {}

    # Engines

    def add_engine(self, name: str, *, capacity_tokens: int, slots: int) -> None:
        """An engine that takes chunks from now on, new or back again."""
        self._leaving.discard(name)
        self._strikes.pop(name, None)
        if name in self.buffer.engines:
            self.buffer.set_up(name, True)
        else:
            self.buffer.add_engine(name, capacity_tokens=capacity_tokens, slots=self.config.max_running or slots)
        self._wake.set()

    def remove_engine(self, name: str) -> None:
        """It gets no more chunks, and is forgotten once those that run there have ended."""
        if name in self.buffer.engines:
            self.buffer.set_up(name, False)
            self._leaving.add(name)
            self._forget_left(name)

    def _forget_left(self, name: str) -> None:
        if name in self._leaving and not self.buffer.engines[name].in_flight:
            self._leaving.discard(name)
            self.buffer.remove_engine(name)

    def others(self, name: str, requests: int) -> None:
        """So many requests run on an engine that did not ask here."""
        if name in self.buffer.engines:
            self.buffer.engines[name].outside = requests
            self._wake.set()

    def _judge(self, name: str, report: Report) -> None:
        if report.tokens and not report.blame:
            self._strikes.pop(name, None)
        if not (report.blame or report.lost):
            return
        self._last_error[name] = report.end
        self._strikes[name] = strikes = self._strikes.get(name, 0) + 1
        if name not in self.buffer.up or not (report.lost or strikes >= self.config.strikes):
            return
        log.warning("engine %s is out: %s", name, report.end)
        self.buffer.set_up(name, False)
        if not report.lost:
            asyncio.get_running_loop().call_later(self.config.backoff_s, self._try_again, name)

    def _try_again(self, name: str) -> None:
        if name in self.buffer.engines and name not in self._leaving:
            # One more bad answer, and it rests again.
            self._strikes[name] = self.config.strikes - 1
            self.buffer.set_up(name, True)
            self._wake.set()

    # Chunks

    async def take(self, ask: Ask) -> Place:
        """Waits for a place. Raises RolloutError where none can be had; the request is then out."""
        if ask.key not in self._requests:
            self._submit(ask)
        request = self._requests[ask.key]
        if request.fruitless >= self.config.fruitless:
            last = request.chunks[-1]
            self._drop(ask.key)
            raise RolloutError(
                f"{request.fruitless} chunks in a row without a token, the last on {last.engine}: {last.end}"
            )
        try:
            return await self._places[ask.key]
        except asyncio.CancelledError:
            self._drop(ask.key)
            raise

    def _submit(self, ask: Ask) -> None:
        self._arrivals += 1
        plan = Plan(limit=ask.limit, sampling={"ignore_eos": ask.ignore_eos}, custom_params={}, whole=ask.whole)
        # What the tokens are is the client's business.
        request = Request(self._arrivals, ask.group, ask.sample, [0] * ask.input_tokens, plan, seed=0)
        request.cached_tokens.update(self._sessions.get(ask.session, {}))
        self._requests[ask.key], self._keys[self._arrivals] = request, ask.key
        self._session_of[ask.key] = ask.session
        self._places[ask.key] = asyncio.get_running_loop().create_future()
        self.buffer.submit(request)
        self._wake.set()

    def give_back(self, key: str, report: Report) -> None:
        """The chunk is over; or, where the request waits still, nobody does any more (`dropped`)."""
        request = self._requests.get(key)
        if request is None or request.engine is None:
            self._drop(key)
            return
        engine = request.engine
        self._note_version(report.weight_version)
        chunk = Chunk(
            engine=engine,
            tokens=report.tokens,
            end=report.end,
            input_tokens=request.length,
            # What an engine had cached is not told here: all is taken as found.
            cached_tokens=request.length,
            weight_version=report.weight_version,
        )
        if report.blame or report.lost:
            counts = self.buffer.counts
            counts.add(counts.broken, report.end.split(":")[0])
        self._places[key] = asyncio.get_running_loop().create_future()
        self.buffer.chunk_ended(request, chunk, [0] * report.tokens, None, finished=report.finished)
        if report.blame or report.lost:
            request.avoid.add(engine)
        self._judge(engine, report)
        if report.finished:
            self._remember(key, engine, request.length)
            self._forget(key)
        elif report.dropped:
            self._drop(key)
        self._forget_left(engine)
        self._wake.set()

    def _note_version(self, version: str | None) -> None:
        if version is not None and version != self.weight_version:
            if self.weight_version is not None:
                self.new_weights()
            self.weight_version = version

    def new_weights(self) -> None:
        """Lengths and cached prefixes of the weights before tell nothing any more."""
        self.weight_updates += 1
        self.buffer.new_weights()
        self._sessions.clear()

    def forget_prefixes(self) -> None:
        """What engines had cached is gone, or need not count."""
        self._sessions.clear()
        for request in self._requests.values():
            request.cached_tokens.clear()

    def _remember(self, key: str, engine: str, tokens: int) -> None:
        session = self._session_of[key]
        self._sessions[session] = {engine: tokens}
        self._sessions.move_to_end(session)
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)

    def _forget(self, key: str) -> None:
        del self._keys[self._requests.pop(key).arrival], self._session_of[key], self._places[key]

    def _drop(self, key: str) -> None:
        if key in self._requests:
            self.buffer.drop(self._requests[key])
            self._forget(key)
            self._wake.set()

    async def run(self) -> None:
        """Gives out places until it is cancelled."""
        while True:
            try:
                async for one in assignments(self.config, self.buffer, self._wake, said=self._said):
                    place = self._places[self._keys[one.request.arrival]]
                    if not place.done():
                        place.set_result(Place(one.engine, one.tokens))
            except RolloutError as error:
                for place in list(self._places.values()):
                    if not place.done():
                        place.set_exception(error)
                for key, request in list(self._requests.items()):
                    if request.engine is None:
                        self._drop(key)

    def _said(self) -> str:
        return "; ".join(f"{name}: {text}" for name, text in self._last_error.items()) or "no engine was ever added"


def engines_alike(seer: dict[str, str]) -> str | None:
    """Why engines may not serve one rollout together: some run Seer and others do not. None where they may.

    seer: of each engine, how Seer runs there; `off` without it.
    """
    if len(set(seer.values())) < 2:
        return None
    return "Seer must run alike on all engines; saw " + ", ".join(f"{name}: {mode}" for name, mode in seer.items())
