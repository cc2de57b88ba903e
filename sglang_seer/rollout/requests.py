"""Requests one by one, each awaited by itself, for frameworks whose own loop is over samples.

    async with RequestRollout(["http://a:30000", "http://b:30000"], tokenizer=tokenizer) as rollout:
        sample = await rollout.generate("problem-3", 0, input_ids, {"max_new_tokens": 4096}, seed=17)

The buffer, the order and the engines are the controller's: it is one that takes requests in place of prompts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sglang_seer.rollout.buffer import Request
from sglang_seer.rollout.client import RolloutError
from sglang_seer.rollout.controller import RolloutController
from sglang_seer.rollout.exact import plan
from sglang_seer.rollout.listener import ChunkListener
from sglang_seer.rollout.samples import Sample
from sglang_seer.rollout.timing import end


class RequestRollout(RolloutController):
    """An async context manager; takes what RolloutController takes.

    halted: while it says so every request ends as `cancelled` as soon as its chunk has ended; see ChunkRunner.
    """

    def __init__(self, engines: Sequence[str], *, halted: Callable[[], bool] | None = None, **options: Any) -> None:
        super().__init__(engines, **options)
        if halted is not None:
            self._runner.halted = halted
        self._awaited: dict[int, asyncio.Future[Sample]] = {}
        self._error: Exception | None = None
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> RequestRollout:
        await super().__aenter__()
        self._active = True
        self._loop = asyncio.create_task(self._guard(self._runner.run(lambda: True)))
        return self

    async def _close(self) -> None:
        if self._loop is not None:
            await end([self._loop])
        self._failed(RolloutError("the rollout was closed"))
        await super()._close()

    async def generate(
        self,
        group: str,
        sample: int,
        input_ids: Sequence[int],
        sampling: Mapping[str, Any],
        *,
        seed: int,
        output_ids: Iterable[int] = (),
        listener: ChunkListener | None = None,
    ) -> Sample:
        """The sample, once it has ended for whatever reason.

        output_ids: what an earlier call generated of it, part of `max_new_tokens`. Raises ValueError for what cannot
        be served, RolloutError where no engine is left. Cancelled, it tells the engine.
        """
        its_plan = plan(sampling, tokenizer=self._tokenizer is not None)
        self._fleet.check_length(group, len(input_ids), its_plan.limit)
        if self._error is not None:
            raise self._error
        arrival, self._arrivals = self._arrivals, self._arrivals + 1
        request = Request(arrival, group, sample, list(input_ids), its_plan, seed, arrival, listener)
        request.output_ids = tuple(output_ids)
        request.submitted_s = time.time()
        future: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self._awaited[arrival] = future
        self._recorder.submit(request)
        self._buffer.submit(request)
        self._runner.wake.set()
        try:
            return await future
        finally:
            del self._awaited[arrival]
            if not request.finished and not self._error:
                self._runner.stop([request], "cancelled")

    async def read_weight_version(self) -> str | None:
        """What the engines say that they serve; names the KV they share from now on.

        Raises ValueError where they differ, EngineError where one does not answer.
        """
        up = [link for url, link in self._links.items() if url in self._buffer.up]
        versions = await asyncio.gather(*(link.weight_version() for link in up))
        if len(set(versions)) > 1:
            said = ", ".join(f"{link.url} has {version!r}" for link, version in zip(up, versions, strict=True))
            raise ValueError(f"engines must serve the same weights; weight_version: {said}")
        version = versions[0] if versions else None
        self._runner.weight_version = version or "0"
        return version

    def _finished(self, sample: Sample) -> None:
        future = self._awaited.get(sample.metadata)
        if future is not None and not future.done():
            future.set_result(sample)

    def _failed(self, error: Exception) -> None:
        self._error = self._error or error
        for future in self._awaited.values():
            if not future.done():
                future.set_exception(error)
