"""Run engines on the CPU platform, with any Python that has one, and collect what they answer."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

HOST = Path(__file__).with_name("engine_host.py")
TIMEOUT_S = 600.0
PLATFORM = {"SGLANG_PLATFORM": "seer_cpu", "SGLANG_SEER": "off"}

Answers = list[list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that are in flight together."""

    input_ids: list[list[int]]
    sampling_params: list[dict[str, Any]]
    more: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        return {"input_ids": self.input_ids, "sampling_params": self.sampling_params, **self.more}


class EngineHost:
    """A process that has imported SGLang and runs one engine after the other; a context manager.

    Args:
        python: of an environment with SGLang and the CPU platform.
        folder: where it runs, away from names that shadow packages, and where each engine gets a folder.
        environment: variables besides those of this process.
    """

    def __init__(self, python: str, folder: Path, environment: Mapping[str, str] = PLATFORM) -> None:
        self._folder = folder
        self._log = (folder / "host.txt").open("w")
        self._process = subprocess.Popen(
            [python, str(HOST)],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._count = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(("pid ", "exit ")):
                self._lines.put(line)
        self._lines.put("host ended")

    def run(self, engine: dict[str, Any], batches: list[Batch], *, mutant: str = "", early: bool = False) -> Answers:
        """The answers of each batch.

        Args:
            mutant: statements that run in the engine's process before it starts.
            early: server arguments are built before SGLang loads plugins.

        Raises:
            AssertionError: the engine failed or took too long; the message has the end of its log.
        """
        self._count += 1
        folder = self._folder / f"engine{self._count}"
        folder.mkdir()
        job = {"engine": engine, "batches": [batch.arguments() for batch in batches], "mutant": mutant, "early": early}
        (folder / "job.json").write_text(json.dumps(job))
        assert self._process.stdin is not None
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()
        started = ended = "nothing"
        try:
            started = self._lines.get(timeout=TIMEOUT_S)
            ended = self._lines.get(timeout=TIMEOUT_S)
        except queue.Empty:
            if started.startswith("pid "):
                # The engine's children are in the session of the fork.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(started.split()[1]), signal.SIGKILL)
        if ended != "exit 0\n":
            raise AssertionError(f"engine: {started.strip()}, then {ended.strip()}\n{self._logs(folder)}")
        answers: Answers = json.loads((folder / "answers.json").read_text())
        return answers

    def last_status(self) -> dict[str, Any] | None:
        """What Seer said of itself in the last engine that ran; None if it took no part."""
        status: dict[str, Any] | None = json.loads((self._folder / f"engine{self._count}/status.json").read_text())
        return status

    def _logs(self, folder: Path) -> str:
        files = (self._folder / "host.txt", folder / "log.txt")
        return "\n".join(f"{file}:\n{file.read_text()[-4000:]}" for file in files if file.exists())

    def __enter__(self) -> EngineHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


def tokens(answers: list[dict[str, Any]]) -> list[list[int]]:
    return [answer["output_ids"] for answer in answers]


def logprobs(answers: list[dict[str, Any]]) -> list[list[list[float]]]:
    """Of each sample and token the log-probabilities of the two likeliest, to the last bit."""
    return [
        [[entry[0] for entry in token] for token in answer["meta_info"]["output_top_logprobs"]] for answer in answers
    ]
