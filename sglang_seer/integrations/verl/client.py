"""veRL's client of its servers, which sends each request as a chain of chunks (Seer, OSDI 2026, section 3.2).

veRL's own client runs each chunk, so that its servers, handles, media and weight versions stay as they are. The router
says where and when; which tokens are kept is decided here, by the rules of `sglang_seer.rollout`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from ray.exceptions import ActorDiedError, RayError
from verl.utils import normalize_token_ids
from verl.utils.rollout_trace import rollout_trace_op
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from sglang_seer.integrations.verl.chunks import ABORTED, Asked, Lengths, group_of_prompt, part_of, read
from sglang_seer.integrations.verl.response import Response
from sglang_seer.integrations.verl.trajectory import Trajectory, current
from sglang_seer.rollout.desk import Ask, Report
from sglang_seer.rollout.samples import sample_seed
from sglang_seer.rollout.seams import Seams, Tokenizer
from sglang_seer.rollout.verdict import judge

# What the request itself was wrong about is the caller's to know; another engine would say the same.
ITS_OWN_FAULT = (ValueError, TypeError, AssertionError)


@dataclass(slots=True)
class Call:
    """One generate() under way. server_id: where its chunk runs."""

    ask: Ask
    server_id: str | None = None


_CALL: ContextVar[Call | None] = ContextVar("seer_call", default=None)


class SeerClient(LLMServerClient):  # type: ignore[misc]
    """Made by the agent-loop manager from veRL's client; travels to the workers, which call `prepare`."""

    def __init__(self, config: Any, load_balancer_handle: Any = None, **options: Any) -> None:
        super().__init__(config, load_balancer_handle, **options)
        self._chunk_tokens: int | None = None
        self._backoff_s = 1.0
        self._lengths: Lengths | None = None
        self._seams: Seams | None = None
        self._eos: frozenset[int] = frozenset()

    @classmethod
    def of(cls, client: LLMServerClient) -> SeerClient:
        """In the place of veRL's client."""
        return cls(config=client.config, load_balancer_handle=client._load_balancer)

    async def check(self) -> dict[str, Any]:
        """What the router says of itself and the engines. Raises RuntimeError for a router that is not Seer's."""
        fields = await self._load_balancer.require_acquire_fields.remote()
        if "seer" not in fields:
            raise RuntimeError(
                "the router of this job is not Seer's: wanted rollout.router_config_path to be a YAML file with "
                f"router_class: sglang_seer.integrations.verl.SeerRouter; the router in use asks for {list(fields)}"
            )
        about: dict[str, Any] = await self._load_balancer.check.remote()
        self._chunk_tokens, self._backoff_s = about["chunk_tokens"], about["backoff_s"]
        return about

    def prepare(self, *, tokenizer: Tokenizer | None, eos_token_ids: Iterable[int], lengths: Lengths) -> None:
        """What only a worker knows. eos_token_ids: tokens that end a response."""
        self._seams = Seams(tokenizer) if tokenizer is not None else None
        self._eos = frozenset(eos_token_ids)
        self._lengths = lengths

    async def _acquire_server(self, request_id: str, **extra: Any) -> tuple[str, Any]:
        call = _CALL.get()
        if call is None:
            server: tuple[str, Any] = await super()._acquire_server(request_id, **extra)
            return server
        try:
            call.server_id, handle = await super()._acquire_server(request_id, seer=call.ask)
        except asyncio.CancelledError:
            self._report(call, Report(end="cancelled", dropped=True))
            raise
        assert call.server_id is not None
        return call.server_id, handle

    def _release_server(self, server_id: str, request_id: str | None = None) -> None:
        # A place of the router is given back with what came of the chunk, once that is known.
        if _CALL.get() is None:
            super()._release_server(server_id, request_id=request_id)

    def _report(self, call: Call, report: Report) -> None:
        self._load_balancer.release_server.remote(
            server_id=call.server_id, request_id=call.ask.session, seer=(call.ask.key, report)
        )
        call.server_id = None

    @rollout_trace_op  # type: ignore[untyped-decorator]
    async def generate(
        self, request_id: str, *, prompt_ids: Any, sampling_params: dict[str, Any], **options: Any
    ) -> TokenOutput:
        """As veRL's, with the same tokens: whole requests and chains of chunks give the same samples."""
        if self._lengths is None or self._chunk_tokens is None:
            raise RuntimeError("SeerClient needs rollout.agent.agent_loop_manager_class to be one of Seer's")
        tokens = normalize_token_ids(prompt_ids)
        media = any(options.get(name) is not None for name in ("image_data", "video_data", "audio_data"))
        asked = read(
            sampling_params,
            prompt_tokens=len(tokens),
            lengths=self._lengths,
            tokenizer=self._seams is not None,
            media=media,
        )
        if asked is None:
            return await super().generate(request_id, prompt_ids=tokens, sampling_params=sampling_params, **options)
        trajectory = current()
        group = trajectory.group or group_of_prompt(tokens)
        call = Call(self._ask(request_id, asked, trajectory, group, len(tokens)))
        trajectory.turns += 1
        mark = _CALL.set(call)
        try:
            return await self._in_chunks(call, request_id, tokens, asked, group, trajectory.sample, options)
        finally:
            _CALL.reset(mark)

    def _ask(self, request_id: str, asked: Asked, trajectory: Trajectory, group: str, tokens: int) -> Ask:
        # Later turns of a trajectory have prompts and lengths of their own.
        turn = f"#{trajectory.turns}" if trajectory.turns else ""
        return Ask(
            key=uuid4().hex,
            group=group + turn,
            sample=trajectory.sample,
            session=str(request_id),
            input_tokens=tokens,
            limit=asked.plan.limit,
            whole=asked.plan.whole,
            ignore_eos=bool(asked.plan.sampling.get("ignore_eos")),
        )

    async def _in_chunks(
        self,
        call: Call,
        request_id: str,
        prompt_ids: list[int],
        asked: Asked,
        group: str,
        sample: int,
        options: dict[str, Any],
    ) -> TokenOutput:
        assert self._chunk_tokens is not None
        plan, response = asked.plan, Response()
        seed = self._seed(group, sample) if asked.seed is None else asked.seed
        hints = {"group": group, "sample": sample, "prompt_len": len(prompt_ids), "limit": plan.limit}
        while True:
            before = len(response.token_ids)
            most = plan.chunk_tokens(before, self._chunk_tokens)
            sampling = plan.chunk_sampling(generated=before, tokens=most, seed=seed, hints=hints)
            sampling["logprobs"] = asked.logprobs
            try:
                output = await super().generate(
                    request_id, prompt_ids=prompt_ids + response.token_ids, sampling_params=sampling, **options
                )
            except (asyncio.CancelledError, *ITS_OWN_FAULT):
                self._report(call, Report(end="refused", dropped=True))
                raise
            except RayError as error:
                # Without a place it was the router that gave up.
                if call.server_id is None:
                    raise
                end = f"engine: {type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error) else ''}"
                self._report(call, Report(end=end, blame=True, lost=isinstance(error, ActorDiedError)))
                continue
            part, broken = part_of(output.token_ids, output.log_probs, output.stop_reason, wanted=asked.logprobs)
            verdict = judge(plan, response.token_ids, part, asked=most, broken=broken, seams=self._seams, eos=self._eos)
            aborted = output.stop_reason in ABORTED
            if verdict.finish_reason is None and plan.whole and not (aborted and self._drops_aborted()):
                # It cannot be taken up again exactly.
                verdict = verdict._replace(output_ids=[], logprobs=None)
            response.add(output, verdict.output_ids, verdict.logprobs)
            given_up = aborted and verdict.finish_reason is None and self._drops_aborted()
            self._report(
                call,
                Report(
                    tokens=len(verdict.output_ids),
                    end=verdict.end,
                    finished=verdict.finish_reason is not None,
                    dropped=given_up,
                    blame=verdict.end not in ("length", "stop") and not aborted,
                    weight_version=_version(output),
                ),
            )
            if verdict.finish_reason is not None:
                return response.output(verdict.finish_reason, logprobs=asked.logprobs)
            if given_up:
                return response.output("aborted", logprobs=asked.logprobs)
            if aborted:
                await asyncio.sleep(self._backoff_s)

    def _seed(self, group: str, sample: int) -> int:
        rollout = self.config.actor_rollout_ref.rollout
        return sample_seed(int(rollout.get("seed") or 0), group, sample)

    def _drops_aborted(self) -> bool:
        # As veRL's resuming client has it: only trainers with this section may say that aborted samples are dropped.
        section = self.config.get("async_training")
        return section is not None and not section.partial_rollout


def _version(output: TokenOutput) -> str | None:
    step = output.extra_fields.get("global_steps")
    return None if step is None else str(step)
