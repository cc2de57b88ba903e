"""One side of the demo: start a server, run the rollout with a progress bar, stop the server."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from sglang_seer.demo.servers import Server, ServerPlan, serve
from sglang_seer.rollout.client import EngineClient, EngineError
from sglang_seer.rollout.records import GenerateRequest, Generation, Load
from sglang_seer.rollout.synchronous import Rollout, roll_out

WARM_UP_REQUESTS = 4
WARM_UP_TOKENS = 16


class Progress:
    """The live line of one side: samples finished, their tokens, tokens a second, what the engine holds."""

    def __init__(self, label: str, total: int) -> None:
        self._bar: Any = tqdm(total=total, desc=f"{label:>5}", unit="sample", dynamic_ncols=True)
        self._started_s = time.monotonic()
        self._tokens = 0
        self._load: Load | None = None

    def finished(self, generation: Generation) -> None:
        """Counts a sample."""
        self._tokens += len(generation.output_ids)
        self._show(1)

    def loaded(self, load: Load) -> None:
        """Takes the engine's newest load."""
        self._load = load
        self._show(0)

    def close(self) -> None:
        """Ends the line."""
        self._bar.close()

    def _show(self, samples: int) -> None:
        rate = self._tokens / max(time.monotonic() - self._started_s, 1e-3)
        shown = {"tokens": f"{self._tokens:,}", "tokens/s": f"{rate:,.0f}"}
        if self._load is not None:
            shown |= {"running": str(self._load.running), "waiting": str(self._load.waiting)}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(samples)


def run_side(
    plan: ServerPlan, requests: Sequence[GenerateRequest], folder: Path, *, start_timeout_s: float, timeout_s: float
) -> Rollout:
    """The rollout on a server of its own. Raises ServerError where the server or the rollout fails."""
    print(f"{plan.label}: starting the server", flush=True)
    with serve(plan, folder) as server:
        ready_s = server.wait_until_ready(start_timeout_s)
        print(f"{plan.label}: ready after {ready_s:.0f} s", flush=True)
        try:
            return asyncio.run(_rollout(server, requests, timeout_s))
        except EngineError as error:
            # A server that has just died takes a moment to be seen as dead.
            time.sleep(1.0)
            server.check()
            raise server.error(str(error)) from error
        except TimeoutError as error:
            raise server.error(f"the rollout took longer than {timeout_s:.0f} s") from error


async def _rollout(server: Server, requests: Sequence[GenerateRequest], timeout_s: float) -> Rollout:
    async with EngineClient(server.plan.url) as client:
        await asyncio.gather(*(client.generate(request) for request in warm_up(requests)))
        progress = Progress(server.plan.label, len(requests))
        try:
            rollout = roll_out(client, requests, on_finish=progress.finished, on_load=progress.loaded)
            return await asyncio.wait_for(rollout, timeout_s)
        finally:
            progress.close()


def warm_up(requests: Sequence[GenerateRequest]) -> list[GenerateRequest]:
    """A few short requests of a group of their own; their prompt shares no prefix with a real one beyond one token."""
    # The reversed prompt is as long as a real one and leaves nothing of use in the prefix cache.
    input_ids = requests[0].input_ids[::-1]
    return [
        GenerateRequest(group="warm-up", sample=sample, input_ids=input_ids, limit=WARM_UP_TOKENS, seed=sample)
        for sample in range(WARM_UP_REQUESTS)
    ]
