"""The live line of a rollout."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from types import TracebackType
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from sglang_seer.rollout.controller import RolloutController
from sglang_seer.rollout.samples import Sample

REFRESH_S = 1.0
# Tokens a second are those of the last so many seconds.
WINDOW_S = 30.0


class Progress:
    """Samples finished, running and waiting, tokens a second, and when it is expected to end; an async context manager.

    total: samples wanted. done: of these, there already.
    """

    def __init__(self, rollout: RolloutController, total: int, *, done: int = 0) -> None:
        self._rollout, self._total, self._finished = rollout, total, done
        self._bar: Any = tqdm(total=total, initial=done, desc="rollout", unit="sample", dynamic_ncols=True)
        self._seen: deque[tuple[float, int]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Progress:
        self._task = asyncio.create_task(self._refresh())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._show()
        self._bar.close()

    def finished(self, sample: Sample) -> None:
        """Counts a sample."""
        self._finished += 1
        self._bar.update(1)

    async def _refresh(self) -> None:
        while True:
            self._show()
            await asyncio.sleep(REFRESH_S)

    def _show(self) -> None:
        now_s, tokens = time.monotonic(), self._rollout.generated_tokens
        self._seen.append((now_s, tokens))
        while len(self._seen) > 2 and now_s - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()
        since_s, before = self._seen[0]
        rate = (tokens - before) / max(now_s - since_s, 1e-3)
        buffer = self._rollout.buffer
        shown = {"running": f"{buffer.running:,}", "waiting": f"{buffer.waiting:,}", "tokens/s": f"{rate:,.0f}"}
        if rate > 0 and self._finished < self._total:
            shown["ends in"] = tqdm.format_interval(self._tokens_left() / rate)
        self._bar.set_postfix(shown)

    def _tokens_left(self) -> float:
        """As the lengths of what has finished foretell it."""
        buffer = self._rollout.buffer
        left = [buffer.expected_left_tokens(request) for request in buffer.unfinished()]
        unread = self._total - self._finished - len(left)
        mean = sum(left) / len(left) if left else 0.0
        return sum(left) + max(unread, 0) * mean
