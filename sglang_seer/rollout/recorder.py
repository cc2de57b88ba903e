"""Tells the run file what happens, in its words."""

from __future__ import annotations

from sglang_seer.rollout import events
from sglang_seer.rollout.buffer import Assignment, Request, RequestBuffer
from sglang_seer.rollout.events import EventLog
from sglang_seer.rollout.records import Load
from sglang_seer.rollout.samples import Chunk


class Recorder:
    """Without a log it does nothing, and costs next to nothing."""

    def __init__(self, log: EventLog | None, buffer: RequestBuffer) -> None:
        self.log = log
        self._buffer = buffer
        self._finished = 0
        buffer.explains = log is not None

    def engine(self, name: str, state: str, why: str) -> None:
        if self.log is None:
            return
        engine = self._buffer.engines[name]
        self.log.add(
            events.Engine(
                at_s=self.log.now_s,
                engine=name,
                state=state,
                why=why,
                capacity_tokens=engine.capacity_tokens,
                slots=engine.slots,
            )
        )

    def load(self, name: str, load: Load) -> None:
        if self.log is None:
            return
        engine = self._buffer.engines[name]
        self.log.add(
            events.EngineLoad(
                at_s=self.log.now_s,
                engine=name,
                running=load.running,
                waiting=load.waiting,
                used_tokens=load.used_tokens,
                capacity_tokens=load.capacity_tokens,
                in_flight=engine.in_flight,
                reserved_tokens=engine.reserved_tokens,
            )
        )
        self.queue()

    def queue(self) -> None:
        if self.log is None:
            return
        buffer = self._buffer
        self.log.add(
            events.Queue(at_s=self.log.now_s, waiting=buffer.waiting, running=buffer.running, finished=self._finished)
        )
        self.log.flush()

    def submit(self, request: Request) -> None:
        if self.log is None:
            return
        self.log.add(
            events.Submit(
                at_s=self.log.now_s,
                group=request.group,
                sample=request.sample,
                input_tokens=len(request.input_ids),
                limit_tokens=request.plan.limit,
                restored_tokens=len(request.output_ids),
            )
        )

    def assign(self, assignment: Assignment) -> None:
        if self.log is None:
            return
        request, placement = assignment.request, assignment.placement
        before = request.chunks[-1].engine if request.chunks else assignment.engine
        self.log.add(
            events.Assign(
                at_s=self.log.now_s,
                group=request.group,
                sample=request.sample,
                engine=assignment.engine,
                reason=assignment.reason,
                placement=placement.reason,
                tokens=assignment.tokens,
                generated_tokens=len(request.output_ids),
                expected_tokens=self.expected(request),
                moved_from=before if before != assignment.engine else None,
                pull_from=placement.pull_from,
            )
        )

    def chunk(self, request: Request, chunk: Chunk) -> None:
        if self.log is None:
            return
        now_s = self.log.now_s
        self.log.add(
            events.ChunkEnd(
                at_s=now_s,
                began_s=now_s - (chunk.ended_s - chunk.started_s),
                group=request.group,
                sample=request.sample,
                engine=chunk.engine,
                tokens=chunk.tokens,
                end=chunk.end,
                input_tokens=chunk.input_tokens,
                cached_tokens=chunk.cached_tokens,
                verify_steps=chunk.verify_steps,
                retractions=chunk.retractions,
                pulled_tokens=chunk.pulled_tokens,
            )
        )

    def finish(self, request: Request, finish_reason: str, expected_before_tokens: float) -> None:
        """expected_before_tokens: what `expected` said before the buffer knew of it."""
        self._finished += 1
        if self.log is None:
            return
        self.log.add(
            events.Finish(
                at_s=self.log.now_s,
                group=request.group,
                sample=request.sample,
                finish_reason=finish_reason,
                output_tokens=len(request.output_ids),
                expected_before_tokens=expected_before_tokens,
                expected_tokens=self.expected(request),
            )
        )

    def expected(self, request: Request) -> float:
        """What its group is estimated at for a whole response; 0 where nobody wants to know."""
        if self.log is None:
            return 0.0
        return self._buffer.lengths.expected_tokens(request.group, request.plan.limit)
