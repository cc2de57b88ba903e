"""Divided rollout over many engines (Seer, OSDI 2026, section 3.2): every sample a chain of bounded chunks.

The order of requests is `schedule.WaitingQueue`'s, their place `schedule.placement`'s, the state the request buffer's;
chunks run in the runner, engines are watched by the fleet. Engines may fail in any way: a chunk that breaks off keeps
what had come, and its request waits for another engine. Every sample is yielded exactly once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from contextlib import ExitStack, aclosing
from pathlib import Path
from types import TracebackType
from typing import Any

from sglang_seer.context import ContextLengths, LengthModel
from sglang_seer.rollout.buffer import Counts, Request, RequestBuffer
from sglang_seer.rollout.client import RolloutError
from sglang_seer.rollout.collector import fewer_collections
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.events import EventLog
from sglang_seer.rollout.exact import plan
from sglang_seer.rollout.fleet import Fleet
from sglang_seer.rollout.journal import Journal
from sglang_seer.rollout.link import EngineLink
from sglang_seer.rollout.prompts import ids_of
from sglang_seer.rollout.recorder import Recorder
from sglang_seer.rollout.runner import ChunkRunner
from sglang_seer.rollout.samples import Group, Prompt, Sample
from sglang_seer.rollout.seams import Seams, Tokenizer
from sglang_seer.rollout.timing import end

Prompts = Iterable[Prompt] | AsyncIterable[Prompt]
Reward = Callable[[Sample], Awaitable[Any]]
# How long prompts are taken in at a stretch.
FEED_TURN_S = 0.02
# How long an engine may take to load weights.
UPDATE_S = 600.0
OnRefused = Callable[[Prompt, ValueError], None]


class RolloutController:
    """Samples from many engines; an async context manager.

        async with RolloutController(["http://a:30000", "http://b:30000"]) as rollout:
            async for sample in rollout.samples(prompts):
                ...

    engines: URLs of SGLang servers, all with the same model. tokenizer: for prompts that are text, for the samples'
    text, and for stop strings over seams; without one, requests with stop strings run whole. eos_token_ids: tokens
    that end a response, needed only for SGLang before 0.5.23. lengths: what is known of lengths, kept over rollouts.
    journal: so that a killed rollout goes on where it was. events: the run file, for the report.

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
        events: EventLog | None = None,
    ) -> None:
        self._wanted = list(dict.fromkeys(url.rstrip("/") for url in engines))
        if not self._wanted:
            raise ValueError("engines: got none, wanted the URL of at least one SGLang server")
        self.config = config or RolloutConfig()
        self._tokenizer = tokenizer
        self._journal = journal
        self._buffer = RequestBuffer(
            lengths if lengths is not None else ContextLengths(),
            chunk_tokens=self.config.chunk_tokens,
            overflow_risk=self.config.overflow_risk,
            rules=self.config.rules,
            placement=self.config.placement,
        )
        self._recorder = Recorder(events, self._buffer)
        self._links: dict[str, EngineLink] = {}
        self._out: asyncio.Queue[Sample | BaseException | None] = asyncio.Queue()
        self._runner = ChunkRunner(
            self.config,
            self._buffer,
            self._links,
            seams=Seams(tokenizer) if tokenizer is not None else None,
            eos=frozenset(eos_token_ids),
            journal=journal,
            recorder=self._recorder,
            finished=self._finished,
            failed=self._failed,
        )
        self._fleet = Fleet(
            self.config,
            self._buffer,
            self._links,
            recorder=self._recorder,
            evict=self._runner.evict,
            break_stalled=self._runner.break_stalled,
            wake=self._runner.wake,
        )
        self._collector = ExitStack()
        self._drained = asyncio.Event()
        self._leaving = asyncio.Lock()
        self._helpers: list[asyncio.Task[None]] = []
        self._rewards: set[asyncio.Task[None]] = set()
        self._reward: Reward | None = None
        self._arrivals = 0
        self._sizes: dict[str, int] = {}
        self._fed = False
        self._active = False
        self._undelivered = 0

    # Engines

    async def __aenter__(self) -> RolloutController:
        self._collector.enter_context(fewer_collections(self.config.gc_objects))
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
        with self._collector:
            await self._abandon()
            await self._fleet.close()

    async def add_engine(self, url: str) -> None:
        """Takes in another engine, also while running. Raises EngineError, or ValueError where it does not fit in."""
        await self._fleet.add(url.rstrip("/"))

    async def remove_engine(self, url: str) -> None:
        """Lets an engine go, also while running: its chunks go on elsewhere. Raises ValueError for an unknown one."""
        await self._fleet.remove(url.rstrip("/"))

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
        return self._links

    @property
    def generated_tokens(self) -> int:
        """Kept from the chunks that have ended since the start."""
        return self._runner.generated_tokens

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
        self,
        prompts: Prompts,
        *,
        done: Collection[tuple[str, int]] = (),
        deadline_s: float | None = None,
        reward: Reward | None = None,
        on_refused: OnRefused | None = None,
    ) -> AsyncGenerator[Sample, None]:
        """Every sample of every prompt once, as it finishes.

        done: group and number of samples that are there already and are left out.
        deadline_s: seconds after which whatever is unfinished is yielded as it is, with finish_reason `deadline`.
        reward: awaited for each complete sample while others generate; the sample is yielded with it.
        on_refused: told of prompts that cannot be served, which are left out; without it the first one is raised.
        Raises ValueError for a prompt that cannot be served, RolloutError where no engine is left, and what `prompts`
        and `reward` raise. Leaving it early breaks off what runs.
        """
        if self._active:
            raise RuntimeError("a rollout is running: wait for its end, or make another controller")
        if not self._links:
            raise RuntimeError("RolloutController is an async context manager: use it in `async with`")
        self._active, self._reward = True, reward
        self._sizes, self._fed = {}, False
        self._out = asyncio.Queue()
        self._undelivered = 0
        feeder = asyncio.create_task(self._feed(prompts, done, on_refused))
        self._helpers = [feeder, asyncio.create_task(self._guard(self._runner.run(self._may_start)))]
        if deadline_s is not None:
            self._helpers.append(asyncio.create_task(self._guard(self._deadline(deadline_s, feeder))))
        try:
            while not self._fed or len(self._buffer) or self._undelivered or self._rewards:
                item = await self._out.get()
                if isinstance(item, BaseException):
                    raise item
                if isinstance(item, Sample):
                    self._undelivered -= 1
                    self._drained.set()
                    if self._undelivered == self.config.undelivered_samples - 1:
                        self._runner.wake.set()
                    yield item
        finally:
            await self._abandon()
            self._active = False

    async def _guard(self, work: Awaitable[None]) -> None:
        """What goes wrong in the background is raised where the samples are awaited."""
        try:
            await work
        except Exception as error:  # noqa: BLE001
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._out.put_nowait(error)

    def _may_start(self) -> bool:
        return self._undelivered < self.config.undelivered_samples

    async def _abandon(self) -> None:
        """Breaks off what runs, then what that has begun meanwhile."""
        # One at a time, as a generator that is dropped closes beside its controller: each task is cancelled once.
        async with self._leaving:
            await asyncio.gather(end(self._helpers), self._runner.abandon())
            await self._runner.abandon()
            await end(self._rewards)

    async def _feed(self, prompts: Prompts, done: Collection[tuple[str, int]], on_refused: OnRefused | None) -> None:
        await self._guard(self._submit_all(prompts, done, on_refused))
        self._fed = True
        self._out.put_nowait(None)

    async def _submit_all(
        self, prompts: Prompts, done: Collection[tuple[str, int]], on_refused: OnRefused | None
    ) -> None:
        turn_s = time.monotonic()
        async for prompt in _each(prompts):
            while len(self._buffer) + self._undelivered >= self.config.buffer_requests:
                self._drained.clear()
                await self._drained.wait()
            try:
                requests = self._requests_of(prompt, done)
            except ValueError as error:
                if on_refused is None:
                    raise
                on_refused(prompt, error)
                continue
            self._submit(requests)
            # Long lists of prompts leave the others their turns, but not after each prompt: turns may be long.
            if time.monotonic() - turn_s > FEED_TURN_S:
                await asyncio.sleep(0)
                turn_s = time.monotonic()

    def _requests_of(self, prompt: Prompt, done: Collection[tuple[str, int]]) -> list[Request]:
        """Raises ValueError for a prompt that cannot be served."""
        if prompt.group in self._sizes:
            raise ValueError(f"prompt {prompt.group!r}: a group of that name is there already")
        try:
            its_plan = plan(prompt.sampling, tokenizer=self._tokenizer is not None)
        except ValueError as error:
            raise ValueError(f"prompt {prompt.group!r}: {error}") from error
        input_ids = ids_of(prompt, self._tokenizer)
        self._fleet.check_length(prompt.group, len(input_ids), its_plan.limit)
        wanted = [sample for sample in range(prompt.samples) if (prompt.group, sample) not in done]
        self._sizes[prompt.group] = len(wanted)
        first = self._arrivals
        self._arrivals += len(wanted)
        return [
            Request(number, prompt.group, sample, input_ids, its_plan, prompt.seed_of(sample), prompt.metadata)
            for number, sample in enumerate(wanted, first)
        ]

    def _submit(self, requests: Iterable[Request]) -> None:
        for request in requests:
            request.submitted_s = time.time()
            done = self._journal.restore(request) if self._journal is not None else None
            if done is not None:
                self._undelivered += 1
                self._out.put_nowait(done)
            else:
                self._recorder.submit(request)
                self._buffer.submit(request)
        self._runner.wake.set()

    async def _deadline(self, seconds: float, feeder: asyncio.Task[None]) -> None:
        await asyncio.sleep(seconds)
        await end([feeder])
        self._fed = True
        self._stop(self._buffer.unfinished(), "deadline")

    def cancel(self, group: str, sample: int | None = None) -> int:
        """Ends samples of a group, which are yielded as `cancelled` with what they have. Returns how many."""
        chosen = [one for one in self._buffer.unfinished() if one.group == group and sample in (None, one.sample)]
        self._stop(chosen, "cancelled")
        return len(chosen)

    def _stop(self, requests: Iterable[Request], reason: str) -> None:
        self._runner.stop(requests, reason)
        self._out.put_nowait(None)

    async def update_weights(self, folder: str | Path, version: str, *, timeout_s: float = UPDATE_S) -> None:
        """Lets every engine load the checkpoint in `folder` between two rollouts; they all serve `version` then.

        KV, draft texts and lengths of the weights before are dropped, there and here. `folder` is a path on the
        engines' machines. Raises RuntimeError while a rollout runs, RolloutError with what each engine said that did
        not follow: let it go with `remove_engine`, or try again.
        """
        if self._active:
            raise RuntimeError("a rollout is running: update the weights when it has ended")
        if not self._links:
            raise RuntimeError("RolloutController is an async context manager: use it in `async with`")
        updates = (link.update_weights(str(folder), version, timeout_s) for link in self._links.values())
        answers = await asyncio.gather(*updates, return_exceptions=True)
        if failed := [answer for answer in answers if isinstance(answer, BaseException)]:
            raise RolloutError(f"weights {version!r} are not everywhere: " + "; ".join(map(str, failed))) from failed[0]
        self.new_weights(version)

    def new_weights(self, version: str) -> None:
        """Tells that all engines have weights of that version now: nothing that was learnt under others holds."""
        self._runner.weight_version = version
        self._buffer.new_weights()

    async def release_kv(self) -> None:
        """Empties the KV store that the engines share: none of it is of use once weights have changed.

        Raises RuntimeError while samples are generated, RolloutError where no engine does it.
        """
        if self._active:
            raise RuntimeError("a rollout is running: its KV is still wanted")
        # Each of them: in a folder, each engine keeps count of what it wrote.
        cleared = await asyncio.gather(*(link.clear_store() for link in self._links.values()))
        if not any(cleared):
            said = "; ".join(f"{url}: {link.last_error}" for url, link in self._links.items())
            raise RolloutError(f"no engine emptied its KV store: {said}")

    # What has ended

    def _finished(self, sample: Sample) -> None:
        if self._reward is None or not sample.complete:
            self._deliver(sample)
            return
        task = asyncio.create_task(self._guard(self._rewarded(sample, self._reward)))
        self._rewards.add(task)
        task.add_done_callback(self._reward_done)

    def _reward_done(self, task: asyncio.Task[None]) -> None:
        self._rewards.discard(task)
        self._out.put_nowait(None)

    async def _rewarded(self, sample: Sample, reward: Reward) -> None:
        sample.reward = await reward(sample)
        # Of a reward that swallowed its cancellation nobody knows what it says.
        if not self._leaving.locked():
            self._deliver(sample)

    def _deliver(self, sample: Sample) -> None:
        if self._journal is not None:
            self._journal.done(sample)
        self._undelivered += 1
        self._out.put_nowait(sample)


async def _each(prompts: Prompts) -> AsyncIterator[Prompt]:
    if isinstance(prompts, AsyncIterable):
        async for prompt in prompts:
            yield prompt
    else:
        for prompt in prompts:
            yield prompt
