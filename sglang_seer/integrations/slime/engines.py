"""The engines of slime's router behind one request buffer, one of each process.

They are met when the first sample of a rollout comes, and let go when none is left: between rollouts slime puts
engines to sleep and changes their weights, and nobody may take that for a fault.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sglang_seer.context import ContextLengths
from sglang_seer.integrations.slime import compat
from sglang_seer.integrations.slime.turn import Turn
from sglang_seer.rollout.discovery import engines_of_router
from sglang_seer.rollout.requests import RequestRollout
from sglang_seer.rollout.samples import Sample, sample_seed

log = logging.getLogger(__name__)

# Samples of a rollout follow each other closer than that, also those with tools between their turns.
IDLE_S = 1.0


class Engines:
    """tokenizer: the model's. metrics: counted since they were taken last."""

    def __init__(self, args: Any) -> None:
        self.settings = compat.check(args)
        load = compat.slime("utils.processing_utils").load_tokenizer
        self.tokenizer: Any = load(args.hf_checkpoint, trust_remote_code=True)
        self.metrics: Counter[str] = Counter()
        self._args = args
        self._lengths = ContextLengths()
        self._version: str | None = None
        self._rollout: RequestRollout | None = None
        self._users = 0
        self._unnamed = 0
        self._told = False
        self._lock = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None

    async def generate(self, turn: Turn, sampling: Mapping[str, Any], *, evaluation: bool) -> Sample:
        """Runs a turn to its end, or until slime aborts. Raises as RequestRollout.generate."""
        sample = turn.sample
        if sample.group_index is None or evaluation:
            digest = hashlib.blake2b(array("q", turn.input_ids).tobytes(), digest_size=8).hexdigest()
            group = f"{'eval' if evaluation else 'prompt'}-{digest}"
        else:
            group = str(sample.group_index)
        number = sample.index
        if number is None:
            number = self._unnamed = self._unnamed - 1
        seed = sampling.get("sampling_seed")
        if seed is None:
            seed = sample_seed(getattr(self._args, "rollout_seed", 0), group, number)
        self._users += 1
        try:
            async with self._lock:
                rollout = self._rollout = self._rollout or await self._open()
            return await rollout.generate(
                group,
                number,
                turn.input_ids,
                {**sampling, "max_new_tokens": turn.limit},
                seed=seed,
                output_ids=turn.output_ids,
                listener=turn,
            )
        finally:
            self._users -= 1
            if not self._users and self._rollout is not None:
                self._rest()

    async def _open(self) -> RequestRollout:
        args = self._args
        urls = await engines_of_router(f"http://{args.sglang_router_ip}:{args.sglang_router_port}")
        # Once: to ask for it makes it anew where it is gone.
        state = compat.slime("rollout.sglang_rollout").GenerateState(args)
        rollout = RequestRollout(
            urls,
            config=self.settings.rollout,
            tokenizer=self.tokenizer,
            lengths=self._lengths,
            halted=lambda: bool(state.aborted),
        )
        await rollout.__aenter__()
        try:
            facts = {url: link.facts for url, link in rollout.links.items() if link.facts is not None}
            if reasons := compat.engine_reasons(facts):
                raise ValueError("sglang_seer.integrations.slime: " + "; ".join(reasons))
            version = await rollout.read_weight_version()
        except BaseException:
            await rollout.__aexit__(None, None, None)
            raise
        if version != self._version:
            # What was learnt of lengths holds for the weights it was learnt under.
            self._lengths.clear()
            self._version = version
        seer = next(iter(facts.values())).seer
        log.log(
            logging.WARNING if not self._told else logging.INFO,
            "seer: request buffer over %d engines in chunks of %d tokens; Seer is %s in them; weights %s",
            *(len(urls), self.settings.rollout.chunk_tokens, seer, version),
        )
        self._told = True
        return rollout

    def _rest(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self._closing = asyncio.create_task(self._close_later())

    async def _close_later(self) -> None:
        await asyncio.sleep(IDLE_S)
        if not self._users:
            await self.close()

    async def close(self) -> None:
        """Lets the engines go; the next sample meets them again."""
        async with self._lock:
            rollout, self._rollout = self._rollout, None
            if rollout is None:
                return
            counts = rollout.counts
            self.metrics.update(
                chunks=counts.chunks,
                moved=counts.moved,
                broken=sum(counts.broken.values()),
                whole=sum(counts.whole.values()),
                engines_lost=counts.engines_lost,
                prefilled_again_tokens=counts.prefilled_again_tokens,
                generated_tokens=rollout.generated_tokens,
            )
            self.metrics["engines"] = len(rollout.links)
            await rollout.__aexit__(None, None, None)

    def take_metrics(self) -> dict[str, float]:
        """Since the last call, as slime logs them."""
        taken = {f"seer/{name}": float(value) for name, value in self.metrics.items()}
        self.metrics.clear()
        return taken


# What makes them, and they.
_of_process: tuple[tuple[Any, ...], Engines] | None = None


def engines_of_process(args: Any) -> Engines:
    """One for all of slime's rollouts; slime runs them in one event loop. Raises ValueError as compat.check."""
    global _of_process
    router = (getattr(args, "sglang_router_ip", None), getattr(args, "sglang_router_port", None))
    key = (asyncio.get_running_loop(), *router, compat.Settings.of(args))
    if _of_process is None or _of_process[0] != key:
        _of_process = (key, Engines(args))
    return _of_process[1]
