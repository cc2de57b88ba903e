"""Runs in an engine's process: whatever the model says, the recorded token is sampled.

In each row of logits one is raised so far that every sampler takes it with probability 1. Which one, the row's position
says: in plain decoding, and at each node of a draft tree, where it is the token that follows if the path to the node is
the record's. So stock SGLang, its own speculation and Seer sample alike, by their own code. It costs a gather and a
scatter of one number a row.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from sglang_seer_cpu.import_hooks import after_import

from bench.replay import record

PATH = "SGLANG_SEER_BENCH_RECORD"
# Runs before anything else.
SITECUSTOMIZE = "from bench.replay import engine; engine.install()\n"
# bfloat16 holds it, and nothing that a random model says comes near it.
LOUD = 10_000.0


class Table:
    """[slots, positions] the recorded token of each position of each request that an engine holds, -1 for none."""

    def __init__(self, path: Path) -> None:
        self._record = record.read(path)
        self._tokens: torch.Tensor | None = None

    def enter(self, batch: Any, model_runner: Any) -> None:
        """Requests that are about to be prefilled have got their slots."""
        if self._tokens is None:
            # As wide as a slot's KV.
            self._tokens = torch.full_like(model_runner.req_to_token_pool.req_to_token, -1)
        for slot, request in zip(batch.req_pool_indices.tolist(), batch.reqs, strict=True):
            row = self._tokens[slot]
            row.fill_(-1)
            hint = (request.sampling_params.custom_params or {}).get("seer", {})
            response = self._record.get(record.key(str(hint.get("group")), hint.get("sample", 0)))
            if response is not None:
                begin = hint["prompt_len"]
                response = response[: len(row) - begin]
                row[begin : begin + len(response)] = torch.from_numpy(response).to(row.device, row.dtype)

    def force(self, logits: torch.Tensor, forward_batch: Any) -> None:
        """logits: [rows, vocabulary], changed in place; a row a request, or a row a node of its tree."""
        if self._tokens is None:
            return
        requests = forward_batch.req_pool_indices
        if forward_batch.forward_mode.is_target_verify():
            requests = requests.repeat_interleave(len(logits) // len(requests))
            following = forward_batch.positions[: len(logits)] + 1
        else:
            following = forward_batch.seq_lens
        wanted = self._tokens[requests, following.clamp(max=self._tokens.shape[1] - 1).long()].long()[:, None]
        place = wanted.clamp(min=0)
        logits.scatter_(1, place, torch.where(wanted >= 0, LOUD, logits.gather(1, place)))


def install() -> None:
    """Plant the hooks, where a record is named."""
    if PATH not in os.environ:
        return
    table = Table(Path(os.environ[PATH]))
    after_import("sglang.srt.model_executor.forward_batch_info", lambda module: _enter(module, table))
    after_import("sglang.srt.model_executor.model_runner", lambda module: _force(module, table))


def _enter(module: ModuleType, table: Table) -> None:
    init_new = module.ForwardBatch.init_new.__func__

    def wrapped(cls: Any, batch: Any, model_runner: Any, *arguments: Any, **keywords: Any) -> Any:
        if batch.forward_mode.is_extend() and not batch.forward_mode.is_target_verify():
            table.enter(batch, model_runner)
        return init_new(cls, batch, model_runner, *arguments, **keywords)

    module.ForwardBatch.init_new = classmethod(wrapped)


def _force(module: ModuleType, table: Table) -> None:
    forward = module.ModelRunner.forward

    def wrapped(self: Any, forward_batch: Any, *arguments: Any, **keywords: Any) -> Any:
        output = forward(self, forward_batch, *arguments, **keywords)
        logits = getattr(output.logits_output, "next_token_logits", None)
        if logits is not None and len(logits):
            table.force(logits, forward_batch)
        return output

    module.ModelRunner.forward = wrapped
