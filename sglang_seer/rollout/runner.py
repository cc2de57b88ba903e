"""Runs chunks: takes requests from the buffer, sends each to its engine, and settles what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

from sglang_seer.rollout.buffer import Assignment, Request, RequestBuffer
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.journal import Journal
from sglang_seer.rollout.link import Cancelled, EngineLink, Outcome
from sglang_seer.rollout.passes import assignments
from sglang_seer.rollout.recorder import Recorder
from sglang_seer.rollout.samples import Chunk, Sample
from sglang_seer.rollout.seams import Seams
from sglang_seer.rollout.timing import end
from sglang_seer.rollout.verdict import Verdict, judge


class ChunkRunner:
    """What is on its way to engines and back. wake: set it when a chunk could start that could not before.
    halted: while it says so no chunk starts, and every request ends as `cancelled` with what it has once its chunk has
    ended: somebody else aborts those.

    links: of the engines that are there. eos: tokens that end a response, where known. finished: told every sample that
    ended; failed: told what must not have happened.
    """

    def __init__(
        self,
        config: RolloutConfig,
        buffer: RequestBuffer,
        links: dict[str, EngineLink],
        *,
        seams: Seams | None,
        eos: frozenset[int],
        journal: Journal | None,
        recorder: Recorder,
        finished: Callable[[Sample], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.wake = asyncio.Event()
        self.generated_tokens = 0
        self.weight_version = "0"
        self.halted: Callable[[], bool] = lambda: False
        self._config, self._buffer, self._links = config, buffer, links
        self._seams, self._eos, self._journal, self._recorder = seams, eos, journal, recorder
        self._finished, self._failed = finished, failed
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._begun: set[int] = set()
        # Chunks that are to be broken off, and why.
        self._evicted: dict[int, str] = {}
        self._arrivals: dict[str, int] = {}  # by request id, of chunks under way
        self._name = uuid4().hex[:8]
        self._attempts = 0

    async def run(self, may_start: Callable[[], bool]) -> None:
        """Starts chunks until it is cancelled. Raises RolloutError where no engine was up for long."""

        def starts() -> bool:
            if not self.halted():
                return may_start()
            self.stop([one for one in self._buffer.unfinished() if one.engine is None], "cancelled")
            return False

        started = assignments(
            self._config,
            self._buffer,
            self.wake,
            may_start=starts,
            doubted=lambda: {url for url, link in self._links.items() if link.suspect.is_set()},
            said=lambda: "; ".join(f"{url}: {link.last_error}" for url, link in self._links.items()),
        )
        async for assignment in started:
            self._recorder.assign(assignment)
            chunk = self._guarded(assignment, self._links[assignment.engine])
            self._tasks[assignment.request.arrival] = asyncio.create_task(chunk)

    async def _guarded(self, assignment: Assignment, link: EngineLink) -> None:
        try:
            await self._chunk(assignment, link)
        except Exception as error:  # noqa: BLE001 - raised where the samples are awaited
            self._failed(error)

    def evict(self, engine: str, why: str) -> list[asyncio.Task[None]]:
        """Breaks off the chunks of an engine; gives the tasks that end with it. What has come is kept."""
        requests = self._buffer.on_engine(engine)
        for request in requests:
            self._break_off(request, why)
        return [self._tasks[request.arrival] for request in requests]

    def break_stalled(self, link: EngineLink) -> None:
        """Chunks that their engine has lost, or keeps from going on, go on elsewhere."""
        before_s = asyncio.get_running_loop().time() - self._config.stalled_s
        stalled = {self._arrivals[rid] for rid, last_s in link.pulses.items() if last_s < before_s}
        for request in self._buffer.on_engine(link.url) if stalled else ():
            if request.arrival in stalled and request.arrival not in self._evicted:
                request.avoid.add(link.url)
                self._break_off(request, "stalled")

    def stop(self, requests: Iterable[Request], reason: str) -> None:
        """Ends requests with what they have, as samples with that finish reason."""
        for request in requests:
            if request.engine is None:
                self._drop(request, reason)
            else:
                request.ends_as = reason
                self._break_off(request, reason)

    def _break_off(self, request: Request, why: str) -> None:
        self._evicted[request.arrival] = why
        # A task that is cancelled before its first step never runs: it sees by itself that it was evicted.
        if request.arrival in self._begun:
            self._tasks[request.arrival].cancel()

    async def abandon(self) -> None:
        """Breaks everything off and forgets it."""
        await end(self._tasks.values())
        for state in (self._tasks, self._begun, self._evicted):
            state.clear()
        for request in self._buffer.unfinished():
            self._buffer.drop(request)

    # One chunk

    async def _chunk(self, assignment: Assignment, link: EngineLink) -> None:
        request, loop = assignment.request, asyncio.get_running_loop()
        if self._config.shared_kv:
            await self._until_stored(request)
        started_s, began_s = time.time(), loop.time()
        outcome = Outcome(None, self._evicted.get(request.arrival))
        if outcome.broken is None:
            body = self._body(request, assignment.tokens)
            self._begun.add(request.arrival)
            self._arrivals[body["rid"]] = request.arrival
            try:
                outcome = await link.generate(
                    body,
                    most=assignment.tokens,
                    logprobs=self._config.logprobs,
                    keep_meta=request.listener is not None,
                )
            except Cancelled as error:
                if request.arrival not in self._evicted:
                    raise
                outcome = Outcome(error.part, self._evicted[request.arrival])
            finally:
                self._begun.discard(request.arrival)
                del self._arrivals[body["rid"]]
        self._evicted.pop(request.arrival, None)
        del self._tasks[request.arrival]
        self._settle(assignment, link, outcome, started_s, loop.time() - began_s)
        self.wake.set()

    async def _until_stored(self, request: Request) -> None:
        """An engine writes what a chunk left while the answer is on its way: whoever asks at once does not find it."""
        if request.chunks and request.chunks[-1].engine != request.engine:
            left_s = request.chunks[-1].ended_s + self._config.store_s - time.time()
            await asyncio.sleep(min(left_s, self._config.store_s))

    def _body(self, request: Request, tokens: int) -> dict[str, Any]:
        self._attempts += 1
        hints = {
            "group": request.group,
            "sample": request.sample,
            "prompt_len": len(request.input_ids),
            "limit": request.plan.limit,
        }
        sampling = request.plan.chunk_sampling(
            generated=len(request.output_ids), tokens=tokens, seed=request.seed, hints=hints
        )
        sampling.setdefault("stream_interval", self._config.stream_interval)
        namespace = {"extra_key": f"seer-weights-{self.weight_version}"} if self._config.shared_kv else {}
        return {
            **(request.listener.body() if request.listener is not None else {}),
            **namespace,
            "rid": f"seer-{self._name}-{request.arrival}-{self._attempts}",
            "input_ids": [*request.input_ids, *request.output_ids],
            "sampling_params": sampling,
            "return_logprob": self._config.logprobs,
            "stream": True,
        }

    def _settle(
        self, assignment: Assignment, link: EngineLink, outcome: Outcome, started_s: float, took_s: float
    ) -> None:
        request, part = assignment.request, outcome.part
        listener = request.listener
        if part is not None and listener is not None and not listener.usable(part):
            part = None
        verdict = judge(
            request.plan,
            request.output_ids,
            part,
            asked=assignment.tokens,
            broken=outcome.broken,
            seams=self._seams,
            eos=self._eos,
        )
        chunk = Chunk(
            engine=link.url,
            tokens=len(verdict.output_ids),
            end=verdict.end,
            input_tokens=request.length,
            started_s=started_s,
            ended_s=time.time(),
            cached_tokens=part.cached_tokens if part else 0,
            pulled_tokens=part.pulled_tokens if part else 0,
            weight_version=part.weight_version if part else None,
            verify_steps=part.verify_steps if part else 0,
            retractions=part.retractions if part else 0,
        )
        if self.halted():
            # Aborts from outside tell nothing about the engine.
            request.ends_as = request.ends_as or "cancelled"
        else:
            self._judge_engine(request, link, verdict, outcome, took_s)
        self.generated_tokens += len(verdict.output_ids)
        expected = self._recorder.expected(request)
        restarts = self._config.one_weight_version and _other_weights(request, chunk)
        finished = verdict.finish_reason is not None and not restarts
        self._buffer.chunk_ended(request, chunk, verdict.output_ids, verdict.logprobs, finished=finished)
        self._recorder.chunk(request, chunk)
        if listener is not None and part is not None:
            listener.kept(part, verdict)
        if self._journal is not None:
            self._journal.chunk(request, chunk, verdict.output_ids, verdict.logprobs)
        if finished:
            assert verdict.finish_reason is not None
            self._recorder.finish(request, verdict.finish_reason, expected)
            self._finished(self._sample(request, verdict.finish_reason, verdict.matched))
        elif request.ends_as is not None:
            self._drop(request, request.ends_as)
        elif restarts:
            self._buffer.restart(request)
            if self._journal is not None:
                self._journal.restart(request)
        elif outcome.refused is not None:
            request.refusals[link.url] = outcome.refused
            if self._buffer.up and self._buffer.up <= request.refusals.keys():
                self._drop(request, "error", outcome.refused)
        elif request.fruitless >= self._config.fruitless:
            said = f"{request.fruitless} chunks in a row without a token, the last: {verdict.end}"
            self._drop(request, "error", said)

    def _judge_engine(
        self, request: Request, link: EngineLink, verdict: Verdict, outcome: Outcome, took_s: float
    ) -> None:
        if verdict.end in ("length", "stop"):
            link.strikes = link.rests = 0
            if verdict.output_ids:
                link.seen_pace(took_s, len(verdict.output_ids))
            return
        counts = self._buffer.counts
        counts.add(counts.broken, verdict.end.split(":")[0])
        if outcome.blame:
            request.avoid.add(link.url)
            link.strike(verdict.end)

    def _drop(self, request: Request, reason: str, error: str | None = None) -> None:
        expected = self._recorder.expected(request)
        self._buffer.drop(request)
        self._recorder.finish(request, reason, expected)
        self._finished(self._sample(request, reason, None, error))

    def _sample(self, request: Request, reason: str, matched: int | str | None, error: str | None = None) -> Sample:
        text = None
        if self._seams is not None:
            text = self._seams.text(request.input_ids, request.output_ids, request.plan, matched)
        return Sample(
            group=request.group,
            sample=request.sample,
            seed=request.seed,
            input_ids=request.input_ids,
            output_ids=list(request.output_ids),
            finish_reason=reason,
            matched=matched,
            text=text,
            logprobs=list(request.logprobs) if self._config.logprobs else None,
            error=error,
            chunks=request.chunks,
            whole=list(request.plan.whole),
            submitted_s=request.submitted_s,
            finished_s=time.time(),
            metadata=request.metadata,
        )


def _other_weights(request: Request, chunk: Chunk) -> bool:
    return len({one.weight_version for one in (*request.chunks, chunk) if one.tokens}) > 1
