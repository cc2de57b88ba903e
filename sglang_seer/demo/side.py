"""One side of a comparison: start its servers, run rollouts with a progress bar, stop the servers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from sglang_seer.demo.plan import Side, shared_environment
from sglang_seer.demo.servers import Server, ServerPlan, serve
from sglang_seer.rollout.client import EngineClient, EngineError, RolloutError
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.controller import RolloutController
from sglang_seer.rollout.records import GenerateRequest, Generation, Load
from sglang_seer.rollout.samples import Prompt, Sample
from sglang_seer.rollout.synchronous import Rollout, roll_out, watched

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


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines of one side. controller: of divided rollouts; None sends whole groups to the engines in turn."""

    clients: Sequence[EngineClient]
    controller: RolloutController | None

    async def roll_out(
        self, requests: Sequence[GenerateRequest], progress: Progress, enough: int | None = None
    ) -> Rollout:
        """All requests to their ends, or `enough` of them. Raises EngineError or RolloutError where that fails."""
        if self.controller is None:
            return await roll_out(
                self.clients, requests, on_finish=progress.finished, on_load=progress.loaded, enough=enough
            )
        return await _divided(self.clients, requests, self.controller, progress)

    async def update_weights(self, folder: Path, version: str, timeout_s: float) -> None:
        """All engines load the checkpoint in `folder`. Raises EngineError or RolloutError where one does not."""
        if self.controller is None:
            updates = (client.update_weights(str(folder), version, timeout_s) for client in self.clients)
            await asyncio.gather(*updates)
        else:
            await self.controller.update_weights(folder, version, timeout_s=timeout_s)


def side_plans(
    side: Side, ports: Sequence[int], shared: Sequence[str], folder: Path, *, divided: bool, bus: str | None = None
) -> list[ServerPlan]:
    """How its servers are started.

    shared: flags of both sides. divided: Seer's engines share text, over `bus`; without one, in `folder`.
    """
    sharing = ("--seer-config", json.dumps({"bus": bus or f"ipc://{folder}/bus"})) if divided else ()
    return [
        ServerPlan(
            label=side.label if len(ports) == 1 else f"{side.label}-{number}",
            port=port,
            flags=(*shared, *side.flags, *sharing),
            environment={**shared_environment(), **side.environment},
        )
        for number, port in enumerate(ports, 1)
    ]


@contextmanager
def started(label: str, plans: Sequence[ServerPlan], folder: Path, timeout_s: float) -> Iterator[list[Server]]:
    """Servers that are ready, stopped at the end.

    Raises ServerError where one does not start, and where the block ends in an EngineError or a RolloutError.
    """
    print(f"{label}: starting the server" + (f"s, {len(plans)}" if len(plans) > 1 else ""), flush=True)
    with ExitStack() as stack:
        servers = [stack.enter_context(serve(plan, folder)) for plan in plans]
        ready_s = max(server.wait_until_ready(timeout_s) for server in servers)
        print(f"{label}: ready after {ready_s:.0f} s", flush=True)
        try:
            yield servers
        except (EngineError, RolloutError) as error:
            # A server that has just died takes a moment to be seen as dead.
            time.sleep(1.0)
            for server in servers:
                server.check()
            raise servers[0].error(str(error)) from error


@asynccontextmanager
async def connected(
    servers: Sequence[Server], requests: Sequence[GenerateRequest], config: RolloutConfig | None
) -> AsyncIterator[Engines]:
    """Engines that have answered once to a few short requests of the kind of `requests`."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(EngineClient(server.plan.url)) for server in servers]
        await asyncio.gather(*(client.generate(request) for client in clients for request in warm_up(requests)))
        controller = None
        if config is not None:
            urls = [client.base_url for client in clients]
            controller = await stack.enter_async_context(RolloutController(urls, config=config))
        yield Engines(clients, controller)


def run_side(
    label: str,
    plans: Sequence[ServerPlan],
    requests: Sequence[GenerateRequest],
    folder: Path,
    *,
    controller: RolloutConfig | None,
    start_timeout_s: float,
    timeout_s: float,
    enough: int | None = None,
) -> Rollout:
    """The rollout on servers of its own.

    controller: of a divided rollout; None sends everything at once, groups to the servers in turn. enough: end with so
    many samples; only without a controller. Raises ServerError where a server or the rollout fails.
    """
    with started(label, plans, folder, start_timeout_s) as servers:
        try:
            return asyncio.run(_rollout(label, servers, requests, controller, timeout_s, enough))
        except TimeoutError as error:
            raise servers[0].error(f"the rollout took longer than {timeout_s:.0f} s") from error


async def _rollout(
    label: str,
    servers: Sequence[Server],
    requests: Sequence[GenerateRequest],
    config: RolloutConfig | None,
    timeout_s: float,
    enough: int | None,
) -> Rollout:
    async with connected(servers, requests, config) as engines:
        progress = Progress(label, len(requests) if enough is None else enough)
        try:
            return await asyncio.wait_for(engines.roll_out(requests, progress, enough), timeout_s)
        finally:
            progress.close()


async def _divided(
    clients: Sequence[EngineClient],
    requests: Sequence[GenerateRequest],
    controller: RolloutController,
    progress: Progress,
) -> Rollout:
    """The same requests through the controller."""
    generations: dict[tuple[str, int], Generation] = {}
    async with watched(clients, progress.loaded) as loads:
        async for sample in controller.samples(_prompts(requests)):
            if not sample.complete:
                raise RolloutError(
                    f"{sample.group} sample {sample.sample} ended as {sample.finish_reason}: {sample.error}"
                )
            generation = generations[sample.group, sample.sample] = _generation(sample)
            progress.finished(generation)
    return Rollout(generations=[generations[request.group, request.sample] for request in requests], loads=loads)


def _prompts(requests: Sequence[GenerateRequest]) -> list[Prompt]:
    groups: dict[str, list[GenerateRequest]] = {}
    for request in requests:
        groups.setdefault(request.group, []).append(request)
    return [
        Prompt(
            group=group,
            input_ids=members[0].input_ids,
            samples=len(members),
            seeds=[request.seed for request in members],
            sampling={"max_new_tokens": members[0].limit, "temperature": members[0].temperature},
        )
        for group, members in groups.items()
    ]


def _generation(sample: Sample) -> Generation:
    return Generation(
        group=sample.group,
        sample=sample.sample,
        output_ids=sample.output_ids,
        finish_reason=sample.finish_reason,
        prompt_tokens=len(sample.input_ids),
        submitted_s=sample.submitted_s,
        first_s=None,
        finished_s=sample.finished_s,
        retractions=sum(chunk.retractions for chunk in sample.chunks),
        verify_steps=sum(chunk.verify_steps for chunk in sample.chunks),
        weight_version=_only(sample.weight_versions),
    )


def _only(versions: Sequence[str | None]) -> str | None:
    """The one weight version of a sample; those of a mixed one, joined, are no engine's."""
    return versions[0] if len(versions) == 1 else " then ".join(map(str, versions))


def warm_up(requests: Sequence[GenerateRequest]) -> list[GenerateRequest]:
    """A few short requests of a group of their own; their prompt shares no prefix with a real one beyond one token."""
    # The reversed prompt is as long as a real one and leaves nothing of use in the prefix cache.
    input_ids = requests[0].input_ids[::-1]
    return [
        GenerateRequest(group="warm-up", sample=sample, input_ids=input_ids, limit=WARM_UP_TOKENS, seed=sample)
        for sample in range(WARM_UP_REQUESTS)
    ]
