"""Divided rollout over many engines (Seer, OSDI 2026, section 3.2): every sample a chain of bounded chunks.

The order of requests is `schedule.WaitingQueue`'s, their place `schedule.placement`'s, the state the request buffer's;
here are the clock, the connections and the tasks. Engines may fail in any way: a chunk that breaks off keeps what had
come, and its request waits for another engine. Every sample is yielded exactly once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any
from uuid import uuid4

from sglang_seer.context import ContextLengths, LengthModel
from sglang_seer.rollout.buffer import Assignment, Counts, Request, RequestBuffer
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.exact import plan
from sglang_seer.rollout.fleet import Fleet, RolloutError
from sglang_seer.rollout.journal import Journal
from sglang_seer.rollout.link import Cancelled, EngineLink, Outcome
from sglang_seer.rollout.prompts import ids_of
from sglang_seer.rollout.samples import Chunk, Group, Prompt, Sample
from sglang_seer.rollout.seams import Seams, Tokenizer
from sglang_seer.rollout.timing import until_set
from sglang_seer.rollout.verdict import judge

Prompts = Iterable[Prompt] | AsyncIterable[Prompt]
Reward = Callable[[Sample], Awaitable[Any]]
# A pass over the waiting requests costs at most this share of the time.
PASS_SHARE = 0.1


class RolloutController:
    """Samples from many engines; an async context manager.

    engines: URLs of SGLang servers, all with the same model. tokenizer: for prompts that are text, for the samples'
    text, and for stop strings over seams; without one, requests with stop strings run whole. eos_token_ids: tokens
    that end a response, needed only for SGLang before 0.5.23. lengths: what is known of lengths, kept over rollouts.

    Entering raises RolloutError where no engine answers, ValueError where engines do not fit together.
    """

    def __init__(
        self,
        engines: Sequence[str],
        *,
        config: RolloutConfig | None = None,
        tokenizer: Tokenizer | None = None,
        eos_token_ids: Iterable[int] = (),
        lengths: LengthModel | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.config = config or RolloutConfig()
        self._tokenizer = tokenizer
        self._seams = Seams(tokenizer) if tokenizer is not None else None
        self._eos = frozenset(eos_token_ids)
        self._buffer = RequestBuffer(
            lengths if lengths is not None else ContextLengths(),
            chunk_tokens=self.config.chunk_tokens,
            rules=self.config.rules,
            placement=self.config.placement,
        )
        self._journal = journal
        self._wanted = list(dict.fromkeys(url.rstrip("/") for url in engines))
        if not self._wanted:
            raise ValueError("engines: got none, wanted the URL of at least one SGLang server")
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._begun: set[int] = set()
        self._evicted: dict[int, str] = {}
        self._wake = asyncio.Event()
        self._fleet = Fleet(self.config, self._buffer, evict=self._evict, wake=self._wake)
        self._drained = asyncio.Event()
        self._out: asyncio.Queue[Sample | BaseException | None] = asyncio.Queue()
        self._rewards: set[asyncio.Task[None]] = set()
        self._reward: Reward | None = None
        self._arrivals = 0
        self._attempts = 0
        self._sizes: dict[str, int] = {}
        self._fed = False
        self._run_id = uuid4().hex[:8]
        self._active = False
        self._undelivered = 0
        self.finished_tokens = 0

    # Engines

    async def __aenter__(self) -> RolloutController:
        try:
            await self._fleet.open(self._wanted)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        tasks = [*self._tasks.values(), *self._rewards]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._fleet.close()

    async def add_engine(self, url: str) -> None:
        """Takes in another engine, also while running. Raises EngineError, or ValueError where it does not fit in."""
        await self._fleet.add(url.rstrip("/"))

    async def remove_engine(self, url: str) -> None:
        """Lets an engine go, also while running: its chunks go on elsewhere. Raises ValueError for an unknown one."""
        await self._fleet.remove(url.rstrip("/"))

    def _evict(self, name: str, why: str) -> list[asyncio.Task[None]]:
        evicted = []
        for request in self._buffer.on_engine(name):
            evicted.append(self._tasks[request.arrival])
            self._break_off(request, why)
        return evicted

    def _break_off(self, request: Request, why: str) -> None:
        """Ends its chunk; what has come is kept."""
        self._evicted[request.arrival] = why
        # A task that is cancelled before its first step never runs: it sees by itself that it was evicted.
        if request.arrival in self._begun:
            self._tasks[request.arrival].cancel()

    @property
    def buffer(self) -> RequestBuffer:
        """Live: read only."""
        return self._buffer

    @property
    def counts(self) -> Counts:
        return self._buffer.counts

    @property
    def links(self) -> dict[str, EngineLink]:
        """Live: read only."""
        return self._fleet.links

    # Samples

    async def groups(self, prompts: Prompts, **options: Any) -> AsyncIterator[Group]:
        """As `samples`, whole groups as they complete."""
        open_groups: dict[str, list[Sample]] = {}
        async with aclosing(self.samples(prompts, **options)) as samples:
            async for sample in samples:
                members = open_groups.setdefault(sample.group, [])
                members.append(sample)
                if len(members) == self._sizes[sample.group]:
                    del open_groups[sample.group]
                    yield Group(group=sample.group, samples=sorted(members, key=lambda one: one.sample))

    async def samples(
        self, prompts: Prompts, *, deadline_s: float | None = None, reward: Reward | None = None
    ) -> AsyncGenerator[Sample, None]:
        """Every sample of every prompt once, as it finishes.

        deadline_s: seconds after which whatever is unfinished is yielded as it is, with finish_reason `deadline`.
        reward: awaited for each complete sample while others generate; the sample is yielded with it.
        Raises ValueError for a prompt that cannot be served, RolloutError where no engine is left, and what `prompts`
        and `reward` raise. Leaving it early breaks off what runs.
        """
        if self._active:
            raise RuntimeError("a rollout is running: wait for its end, or make another controller")
        if not self._fleet.links:
            raise RuntimeError("RolloutController is an async context manager: use it in `async with`")
        self._active, self._reward = True, reward
        self._sizes, self._fed = {}, False
        self._out = asyncio.Queue()
        self._undelivered = 0
        feeder = asyncio.create_task(self._feed(prompts))
        helpers = [feeder, asyncio.create_task(self._guard(self._run()))]
        if deadline_s is not None:
            helpers.append(asyncio.create_task(self._guard(self._deadline(deadline_s, feeder))))
        try:
            while not self._fed or len(self._buffer) or self._undelivered or self._rewards:
                item = await self._out.get()
                if isinstance(item, BaseException):
                    raise item
                if isinstance(item, Sample):
                    self._undelivered -= 1
                    self._drained.set()
                    if self._undelivered == self.config.undelivered_samples - 1:
                        self._wake.set()
                    yield item
        finally:
            for task in helpers:
                task.cancel()
            await self._abandon()
            await asyncio.gather(*helpers, return_exceptions=True)
            self._active = False

    async def _guard(self, work: Awaitable[None]) -> None:
        """What goes wrong in the background is raised where the samples are awaited."""
        try:
            await work
        except Exception as error:  # noqa: BLE001
            self._out.put_nowait(error)

    async def _abandon(self) -> None:
        tasks = [*self._tasks.values(), *self._rewards]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for state in (self._tasks, self._begun, self._evicted):
            state.clear()
        for request in self._buffer.unfinished():
            self._buffer.drop(request)

    async def _feed(self, prompts: Prompts) -> None:
        await self._guard(self._submit_all(prompts))
        self._fed = True
        self._out.put_nowait(None)

    async def _submit_all(self, prompts: Prompts) -> None:
        if isinstance(prompts, AsyncIterable):
            async for prompt in prompts:
                await self._submit(prompt)
        else:
            for prompt in prompts:
                await self._submit(prompt)

    async def _submit(self, prompt: Prompt) -> None:
        while len(self._buffer) + self._undelivered >= self.config.buffer_requests:
            self._drained.clear()
            await self._drained.wait()
        if prompt.group in self._sizes:
            raise ValueError(f"prompt {prompt.group!r}: a group of that name is there already")
        input_ids = ids_of(prompt, self._tokenizer)
        its_plan = plan(prompt.sampling, tokenizer=self._seams is not None)
        self._fleet.check_length(prompt.group, len(input_ids), its_plan.limit)
        self._sizes[prompt.group] = prompt.samples
        for sample in range(prompt.samples):
            request = Request(
                self._arrivals, prompt.group, sample, input_ids, its_plan, prompt.seed_of(sample), prompt.metadata
            )
            self._arrivals += 1
            request.submitted_s = time.time()
            if self._journal is not None:
                done = self._journal.restore(request)
                if done is not None:
                    self._undelivered += 1
                    self._out.put_nowait(done)
                    continue
            self._buffer.submit(request)
        self._wake.set()

    async def _deadline(self, seconds: float, feeder: asyncio.Task[None]) -> None:
        await asyncio.sleep(seconds)
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)
        self._fed = True
        self._stop(self._buffer.unfinished(), "deadline")

    def cancel(self, group: str, sample: int | None = None) -> int:
        """Ends samples of a group, which are yielded as `cancelled` with what they have. Returns how many."""
        chosen = [one for one in self._buffer.unfinished() if one.group == group and sample in (None, one.sample)]
        self._stop(chosen, "cancelled")
        return len(chosen)

    def _stop(self, requests: Iterable[Request], reason: str) -> None:
        for request in requests:
            if request.engine is not None:
                request.ends_as = reason
                self._break_off(request, reason)
            else:
                self._drop(request, reason)
        self._out.put_nowait(None)

    async def new_weights(self) -> None:
        """Tells that all engines have other weights now: nothing that was learnt under the old ones holds."""
        self._buffer.new_weights()

    # Chunks

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        none_since_s: float | None = None
        while True:
            self._wake.clear()
            started_s = loop.time()
            if self._buffer.up:
                none_since_s = None
            elif len(self._buffer):
                none_since_s = none_since_s or started_s
                if started_s - none_since_s > self.config.no_engine_s:
                    said = "; ".join(f"{url}: {link.last_error}" for url, link in self._fleet.links.items())
                    raise RolloutError(f"no engine for {self.config.no_engine_s:.0f} s: {said}")
            if self._undelivered < self.config.undelivered_samples:
                for assignment in self._buffer.assign():
                    self._start(assignment)
            # What changes while a pass would still be paid for is taken together by the next one.
            await asyncio.sleep((loop.time() - started_s) / PASS_SHARE)
            await until_set(self._wake, self.config.poll_s)

    def _start(self, assignment: Assignment) -> None:
        request = assignment.request
        task = asyncio.create_task(self._guard(self._chunk(assignment)))
        self._tasks[request.arrival] = task

    async def _chunk(self, assignment: Assignment) -> None:
        request, link = assignment.request, self._fleet.links[assignment.engine]
        loop = asyncio.get_running_loop()
        started_s, began_s = time.time(), loop.time()
        self._attempts += 1
        outcome = Outcome(None, self._evicted.get(request.arrival))
        if outcome.broken is None:
            self._begun.add(request.arrival)
            try:
                body = self._body(request, assignment.tokens)
                outcome = await link.generate(body, most=assignment.tokens, logprobs=self.config.logprobs)
            except Cancelled as error:
                if request.arrival not in self._evicted:
                    raise
                outcome = Outcome(error.part, self._evicted[request.arrival])
            finally:
                self._begun.discard(request.arrival)
        self._evicted.pop(request.arrival, None)
        del self._tasks[request.arrival]
        self._settle(assignment, link, outcome, started_s, loop.time() - began_s)
        self._wake.set()

    def _body(self, request: Request, tokens: int) -> dict[str, Any]:
        limit = request.plan.limit
        hints = {
            "group": request.group,
            "sample": request.sample,
            "prompt_len": len(request.input_ids),
            "limit": limit,
        }
        sampling = request.plan.chunk_sampling(
            generated=len(request.output_ids), tokens=tokens, seed=request.seed, hints=hints
        )
        sampling.setdefault("stream_interval", self.config.stream_interval)
        return {
            "rid": f"seer-{self._run_id}-{request.arrival}-{self._attempts}",
            "input_ids": request.input_ids + request.output_ids,
            "sampling_params": sampling,
            "return_logprob": self.config.logprobs,
            "stream": True,
        }

    def _settle(
        self, assignment: Assignment, link: EngineLink, outcome: Outcome, started_s: float, took_s: float
    ) -> None:
        request, part = assignment.request, outcome.part
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
            weight_version=part.weight_version if part else None,
            verify_steps=part.verify_steps if part else 0,
            retractions=part.retractions if part else 0,
        )
        if verdict.end in ("length", "stop"):
            link.strikes = link.rests = 0
            if verdict.output_ids:
                link.seen_pace(took_s, len(verdict.output_ids))
        else:
            self.counts.add(self.counts.broken, verdict.end.split(":")[0])
            if outcome.blame:
                request.avoid.add(link.url)
                self._strike(link, verdict.end)
        finished = verdict.finish_reason is not None
        other_weights = self.config.one_weight_version and self._other_weights(request, chunk)
        self._buffer.chunk_ended(
            request, chunk, verdict.output_ids, verdict.logprobs, finished=finished and not other_weights
        )
        if self._journal is not None:
            self._journal.chunk(request, chunk, verdict.output_ids, verdict.logprobs)
        if other_weights and request.ends_as is None:
            self._buffer.restart(request)
            if self._journal is not None:
                self._journal.restart(request)
        elif finished:
            assert verdict.finish_reason is not None
            self._finish(request, verdict.finish_reason, verdict.matched)
        elif request.ends_as is not None:
            self._drop(request, request.ends_as)
        elif outcome.refused is not None:
            request.refusals[link.url] = outcome.refused
            if self._buffer.up <= request.refusals.keys():
                self._drop(request, "error", outcome.refused)
        elif request.fruitless >= self.config.fruitless:
            self._drop(
                request, "error", f"{request.fruitless} chunks in a row without a token, the last: {verdict.end}"
            )

    def _other_weights(self, request: Request, chunk: Chunk) -> bool:
        versions = {one.weight_version for one in (*request.chunks, chunk) if one.tokens}
        return len(versions) > 1

    def _strike(self, link: EngineLink, why: str) -> None:
        link.strikes += 1
        link.last_error = why
        if link.strikes >= self.config.strikes:
            link.suspect.set()

    def _drop(self, request: Request, reason: str, error: str | None = None) -> None:
        self._buffer.drop(request)
        self._finish(request, reason, None, error)

    def _finish(self, request: Request, reason: str, matched: int | str | None, error: str | None = None) -> None:
        text = None
        if self._seams is not None:
            text = self._seams.text(request.input_ids, request.output_ids, request.plan, matched)
        sample = Sample(
            group=request.group,
            sample=request.sample,
            seed=request.seed,
            input_ids=request.input_ids,
            output_ids=request.output_ids,
            finish_reason=reason,
            matched=matched,
            text=text,
            logprobs=request.logprobs if self.config.logprobs else None,
            error=error,
            chunks=request.chunks,
            whole=list(request.plan.whole),
            submitted_s=request.submitted_s,
            finished_s=time.time(),
            metadata=request.metadata,
        )
        self.finished_tokens += len(sample.output_ids)
        if self._reward is not None and sample.complete:
            task = asyncio.create_task(self._guard(self._rewarded(sample)))
            self._rewards.add(task)
            task.add_done_callback(self._reward_done)
        else:
            self._deliver(sample)

    def _reward_done(self, task: asyncio.Task[None]) -> None:
        self._rewards.discard(task)
        self._out.put_nowait(None)

    async def _rewarded(self, sample: Sample) -> None:
        assert self._reward is not None
        sample.reward = await self._reward(sample)
        self._deliver(sample)

    def _deliver(self, sample: Sample) -> None:
        if self._journal is not None:
            self._journal.done(sample)
        self._undelivered += 1
        self._out.put_nowait(sample)
