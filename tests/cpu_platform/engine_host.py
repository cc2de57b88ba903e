"""Runs in a process of its own: imports SGLang once, then runs engines, each in a fork.

Importing SGLang costs more than everything that the engines do here. Reads one folder a line; in it `job.json` has
`engine` (arguments of `sglang.Engine`), `batches` (arguments of `Engine.generate`), perhaps `mutant`, statements to
execute before the engine starts, and perhaps `early`: server arguments are built before that, as launchers do that know
nothing of SGLang's plugins. Writes `answers.json`, `status.json` and `log.txt` there, and to stdout the exit code.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from pathlib import Path


def run_job(folder: Path) -> None:
    """Run one engine in this process."""
    from sglang.srt.entrypoints.engine import Engine
    from sglang.srt.server_args import ServerArgs

    job = json.loads((folder / "job.json").read_text())
    arguments = job["engine"]
    if job.get("early"):
        # On its way to the process that serves.
        arguments = {"server_args": pickle.loads(pickle.dumps(ServerArgs(**arguments)))}
    exec(job.get("mutant", ""), {})
    engine = Engine(**arguments)
    try:
        answers = []
        for batch in job["batches"]:
            answers.append(engine.generate(**batch))
            # With overlap a request that has ended stays in the running batch for one more pass of the scheduler's loop.
            # Requests that come in that pass become its mates, and keep what it makes of the batch: a filter changes
            # their noise, a temperature how greedy ones' log-probabilities are rounded. So the scheduler is asked
            # something: it answers in such a pass, and the next batch comes in a later one.
            (state,) = engine.get_server_info()["internal_states"]
        # A flush succeeds once nothing is on its way to the store any more.
        while "hicache_storage_backend" in job["engine"] and not engine.flush_cache().success:
            time.sleep(0.05)
    finally:
        engine.shutdown()
    (folder / "answers.json").write_text(json.dumps(answers))
    # What Seer says of itself; nothing without it.
    (folder / "status.json").write_text(json.dumps(state.get("sglang_seer")))


def main() -> None:
    import sglang.srt.entrypoints.engine
    import sglang.srt.model_executor.model_runner  # noqa: F401

    for line in sys.stdin:
        folder = Path(line.strip())
        child = os.fork()
        if child == 0:
            os.setsid()
            os.chdir(folder)
            log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            run_job(folder)
            sys.exit(0)
        print(f"pid {child}", flush=True)
        _, status = os.waitpid(child, 0)
        print(f"exit {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main()
