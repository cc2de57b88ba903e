"""The file of finished samples: whole lines only, whatever happens."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import msgspec

from sglang_seer.rollout.samples import COMPLETE, Sample


class _Line(msgspec.Struct):
    group: str
    sample: int
    finish_reason: str


_DECODER = msgspec.json.Decoder(_Line)


class Output:
    """A context manager. resume: go on after the samples that are there; incomplete ones are taken out.

    kept: group and number of the samples that are there. written: samples in the file. Raises FileExistsError for a
    file that is there without resume, ValueError for one that holds something else.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        self.kept: set[tuple[str, int]] = set()
        if path.exists() and path.stat().st_size:
            if not resume:
                raise FileExistsError(f"{path}: there is something; wanted --resume, or another file")
            self._keep_complete()
        self.written = len(self.kept)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def _keep_complete(self) -> None:
        fresh = self.path.with_name(self.path.name + ".resume")
        with self.path.open("rb") as lines, fresh.open("wb") as kept:
            for number, line in enumerate(lines, 1):
                # A kill may have torn the last line.
                if not line.endswith(b"\n"):
                    break
                try:
                    one = _DECODER.decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    raise ValueError(
                        f"{self.path}, line {number}: {error}; wanted a sample, or another file"
                    ) from error
                if one.finish_reason in COMPLETE:
                    kept.write(line)
                    self.kept.add((one.group, one.sample))
        os.replace(fresh, self.path)

    def write(self, sample: Sample) -> None:
        """Raises OSError where the disk is full; the file ends with the sample before then."""
        data = msgspec.json.encode(sample) + b"\n"
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, data) < len(data):
                raise OSError("no space left on the device")
        except OSError as error:
            os.ftruncate(self._file, size)
            text = f"{self.path}: {error}: {self.written} samples are in it, whole; --resume goes on from there"
            raise OSError(text) from error
        self.written += 1
