"""Benchmarks as jobs, each in a process of its own with a time limit: one that fails does not stop the others."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil  # type: ignore[import-untyped]

from bench.rows import ROOT, table, write_json

# A benchmark that is interrupted stops its engines first.
STOP_S = 40.0
SOURCES = ("bench", "sglang_seer", "kernels", "patches", "csrc", "cpu_platform")
SUFFIXES = {".py", ".cc", ".h", ".c"}
State = Literal["done", "kept", "failed", "over time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One benchmark.

    argv: after `python -m sglang_seer bench`, without --json; `{folder}` in it is where its files go. limit_s: then it
    is stopped. resumes: it goes on from its own unfinished file.
    """

    name: str
    what: str
    argv: tuple[str, ...]
    limit_s: float
    resumes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a job. key: of the code, the machine and the arguments. said: the last line of one that failed."""

    name: str
    state: State
    seconds: float
    key: str
    said: str = ""

    @property
    def good(self) -> bool:
        return self.state in ("done", "kept")


def carry_out(
    jobs: Sequence[Job], folder: Path, summary: Path, head: dict[str, Any], *, again: bool, logs: Path
) -> list[Outcome]:
    """All jobs, one after the other; each file goes to `folder`/NAME.json, and `summary` says what became of them.

    head: as `bench.rows.header` makes it. A job that was done by the same code on the same machine with the same
    arguments is kept, unless `again`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _earlier(summary)
    outcomes: list[Outcome] = []
    for job in jobs:
        key = job_key(job, head)
        before = earlier.get(job.name)
        if not again and before and before.good and before.key == key and (folder / f"{job.name}.json").exists():
            outcome = Outcome(name=job.name, state="kept", seconds=before.seconds, key=key)
        else:
            print(f"{job.name}: {job.what} (at most {job.limit_s / 60:.0f} minutes)", file=sys.stderr, flush=True)
            outcome = run(job, folder, key, logs)
        print(f"{job.name}: {outcome.state}, {outcome.seconds:.0f} s", file=sys.stderr, flush=True)
        outcomes.append(outcome)
        earlier[job.name] = outcome
        write_json(summary, head, [], jobs=[asdict(one) for one in earlier.values()])
    return outcomes


def run(job: Job, folder: Path, key: str, logs: Path) -> Outcome:
    """One job to its end, or to its limit; nothing that it started is left running."""
    file = folder / f"{job.name}.json"
    if not job.resumes:
        # What an earlier run left would pass for this one's.
        file.unlink(missing_ok=True)
    words = [word.format(folder=folder.absolute()) for word in job.argv]
    command = [sys.executable, "-m", "sglang_seer", "bench", *words, "--json", str(file.absolute())]
    log = logs / f"{job.name}.log"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
            # Whoever runs in the background ignores SIGINT, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        status = None
        try:
            status = process.wait(job.limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            stop(process)
    seconds = time.monotonic() - started
    if status == 0 and file.exists():
        return Outcome(name=job.name, state="done", seconds=seconds, key=key)
    last = next((line for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "")
    wrong = f"stopped after {job.limit_s:.0f} s" if status is None else f"exit status {status}"
    if status == 0:
        wrong = f"it wrote no {file.name}"
    state: State = "over time" if status is None else "failed"
    return Outcome(name=job.name, state=state, seconds=seconds, key=key, said=f"{wrong}; {log}: {last[-300:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started, which may have sessions of their own."""
    family = list(_descendants(process.pid))
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            family += _descendants(process.pid)
            process.kill()
            process.wait()
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue


def _descendants(pid: int) -> Iterator[psutil.Process]:
    try:
        yield from psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return


def job_key(job: Job, head: dict[str, Any]) -> str:
    """Of all that decides about a job's numbers; a commit would not do, as a tree may differ from it."""
    what = json.dumps([job.argv, head["hardware"], head["versions"], source_digest()], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def source_digest(root: Path = ROOT) -> str:
    """Of the code that is measured and of the code that measures."""
    digest = hashlib.sha256()
    for path in sorted(path for name in SOURCES for path in (root / name).rglob("*") if path.suffix in SUFFIXES):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def chosen(jobs: Sequence[Job], only: str | None) -> list[Job]:
    """The jobs named by comma, all without names. Raises ValueError for a name that is none."""
    names = only.split(",") if only else [job.name for job in jobs]
    known = {job.name: job for job in jobs}
    for name in names:
        if name not in known:
            raise ValueError(f"--only: wanted some of {', '.join(known)}; saw {name!r}")
    return [known[name] for name in dict.fromkeys(names)]


def outcome_table(title: str, outcomes: Sequence[Outcome]) -> str:
    lines = [[one.name, one.state, f"{one.seconds:.0f}", one.said[:160] or "-"] for one in outcomes]
    return table(title, ["benchmark", "state", "s", "why"], lines)


def _earlier(path: Path) -> dict[str, Outcome]:
    """By name, from a summary of this format; none where there is no such file."""
    try:
        return {entry["name"]: Outcome(**entry) for entry in json.loads(path.read_text())["jobs"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
