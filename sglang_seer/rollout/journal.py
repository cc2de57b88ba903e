"""A journal of a rollout, so that one whose process ended goes on where it was.

A JSONL file: a line when a request begins, one for each of its chunks, one when it is done. Lines are written whole
and at once; the last one may be torn by a kill and is cut off. A killed process loses at most the chunks that ran.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from sglang_seer.rollout.buffer import Request
from sglang_seer.rollout.samples import Chunk, Sample

log = logging.getLogger(__name__)


class Begin(msgspec.Struct, tag="begin"):
    group: str
    sample: int
    key: str


class ChunkLine(msgspec.Struct, tag="chunk"):
    group: str
    sample: int
    chunk: Chunk
    output_ids: Sequence[int]
    logprobs: Sequence[float] | None


class Restart(msgspec.Struct, tag="restart"):
    group: str
    sample: int


class Done(msgspec.Struct, tag="done"):
    sample: Sample


Line = Begin | ChunkLine | Restart | Done
_DECODER = msgspec.json.Decoder(Line)


class _Kept:
    def __init__(self, key: str) -> None:
        self.key = key
        self.chunks: list[Chunk] = []
        self.output_ids: list[int] = []
        self.logprobs: list[float] = []
        self.done: Sample | None = None


def key_of(request: Request) -> str:
    """Of what is sampled: equal for requests that give equal samples."""
    plan = request.plan
    what = [request.input_ids, request.seed, plan.limit, plan.min_new_tokens, plan.stops, sorted(plan.stop_token_ids)]
    text = msgspec.json.encode([what, sorted(plan.sampling.items()), plan.custom_params])
    return hashlib.blake2b(text, digest_size=12).hexdigest()


class Journal:
    """A context manager. resume: go on from what is in the file; else the file must not be there, or be empty.

    Raises ValueError for a file that is no journal, FileExistsError for one that is there without resume.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        self._kept: dict[tuple[str, int], _Kept] = {}
        self.restored_samples = 0
        self.restored_tokens = 0
        # Whether a write failed; the rollout goes on without a journal then.
        self.broken: str | None = None
        if path.exists() and path.stat().st_size:
            if not resume:
                raise FileExistsError(f"{path}: there is a journal; wanted --resume, or another file")
            self._read()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def _read(self) -> None:
        whole = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._take(_DECODER.decode(line))
                except (msgspec.DecodeError, KeyError) as error:
                    raise ValueError(f"{self.path}, line {number}: no journal line: {error}") from error
                whole += len(line)
        os.truncate(self.path, whole)

    def _take(self, line: Line) -> None:
        if isinstance(line, Begin):
            self._kept[line.group, line.sample] = _Kept(line.key)
            return
        if isinstance(line, Done):
            self._kept[line.sample.group, line.sample.sample].done = line.sample
            return
        kept = self._kept[line.group, line.sample]
        if isinstance(line, Restart):
            kept.chunks, kept.output_ids, kept.logprobs = [], [], []
        else:
            kept.chunks.append(line.chunk)
            kept.output_ids += line.output_ids
            kept.logprobs += line.logprobs or []

    def restore(self, request: Request) -> Sample | None:
        """Gives a new request what the journal has of it: the finished sample, or tokens to go on from.

        Raises ValueError where the journal knows another request of that name.
        """
        kept = self._kept.pop((request.group, request.sample), None)
        key = key_of(request)
        if kept is None:
            self._write(Begin(request.group, request.sample, key))
            return None
        if kept.key != key:
            raise ValueError(
                f"{self.path}: {request.group!r} sample {request.sample} had another prompt, seed or sampling there"
            )
        self.restored_tokens += len(kept.output_ids)
        # What ended without its end (cancelled, deadline, error) goes on as well.
        if kept.done is not None and kept.done.complete:
            self.restored_samples += 1
            return kept.done
        request.output_ids, request.logprobs = tuple(kept.output_ids), tuple(kept.logprobs)
        request.chunks = kept.chunks
        return None

    def chunk(
        self, request: Request, chunk: Chunk, output_ids: Sequence[int], logprobs: Sequence[float] | None
    ) -> None:
        self._write(ChunkLine(request.group, request.sample, chunk, output_ids, logprobs))

    def restart(self, request: Request) -> None:
        self._write(Restart(request.group, request.sample))

    def done(self, sample: Sample) -> None:
        self._write(Done(sample))

    def _write(self, line: Line) -> None:
        if self.broken is not None:
            return
        data = msgspec.json.encode(line) + b"\n"
        try:
            size = os.fstat(self._file).st_size
            if os.write(self._file, data) < len(data):
                os.ftruncate(self._file, size)
                raise OSError("the disk is full")
        except OSError as error:
            self.broken = f"{self.path}: {error}"
            log.error("the journal ends here, the rollout goes on without it: %s", self.broken)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
