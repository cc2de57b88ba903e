"""`python -m sglang_seer bench all --json FILE`: every CPU benchmark after the other, each with a JSON file of its own.

The files go to a folder named as FILE without its suffix; FILE says what became of each. One that fails does not stop
the others. What the same code did on the same machine before is not done again.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.jobs import Job, carry_out, chosen, outcome_table
from bench.rows import header

PACKAGES = ("sglang-seer", "sglang", "sglang-seer-cpu", "torch", "numpy")
HOUR_S = 3600.0
WITH_QUICK = {"bus", "controller", "draft", "observe", "sim"}
WITH_DATA = {"bus", "draft", "lengths"}
# Commands of `bench` that are none of these, with the reason.
ELSEWHERE = {
    "all": "it runs the others",
    "gpu": "it wants a GPU",
    "soak": "it runs for as long as it is told",
    "tables": "it measures nothing",
}
# Benchmarks by name, with what they are run with here.
PLAN = {
    "lengths": ("length models against what is still to come", ()),
    "sim": ("the paper's tables on simulated clusters", ()),
    "verify": ("the verifier's reference on a CPU", ()),
    "draft": ("the draft index against its peers", ()),
    "controller": ("what the controller costs, what chunks cost, recovery", ("--parts", "load,chunks,recovery")),
    "bus": ("what the token bus costs and gives", ()),
    "reality": ("the simulator against CPU engines", ()),
    "observe": ("what the plugin costs where it is off or only watches", ()),
    "rollout": ("a rollout under stock settings and Seer's techniques", ()),
    "replay": ("a rollout of recorded responses", ()),
    "steps": ("step times of a tiny shape", ()),
    "equality": ("samples against stock SGLang's, margins of those that differ", ()),
}


def main(argv: Sequence[str]) -> int:
    """0 when every benchmark was done, 1 where one failed, 2 for bad arguments."""
    options = _parse(argv)
    folder = options.json.with_suffix("")
    logs = Path(tempfile.mkdtemp(prefix="seer-bench-"))
    head = header("python -m sglang_seer bench all --json FILE", PACKAGES)
    outcomes = carry_out(options.jobs, folder, options.json, head, again=options.again, logs=logs)
    print(outcome_table("Benchmarks", outcomes))
    if all(one.good for one in outcomes):
        shutil.rmtree(logs)
        return 0
    return 1


def jobs(*, quick: bool, data: Path | None) -> list[Job]:
    """What is run. quick: those that can be small are; data: recorded text for those that read it."""
    found = []
    for name, (what, arguments) in PLAN.items():
        more = ["--quick"] * (quick and name in WITH_QUICK)
        more += ["--data", str(data.absolute())] if data is not None and name in WITH_DATA else []
        found.append(Job(name=name, what=what, argv=(name, *arguments, *more), limit_s=HOUR_S))
    return found


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench all", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="what became of each; their files go beside it")
    parser.add_argument("--only", help=f"by comma, of {', '.join(PLAN)}")
    parser.add_argument("--quick", action="store_true", help=f"less of {', '.join(sorted(WITH_QUICK))}")
    parser.add_argument("--data", type=Path, help=f"folder of trace files for {', '.join(sorted(WITH_DATA))}")
    parser.add_argument("--again", action="store_true", help="also what was done before")
    options = parser.parse_args(argv)
    try:
        options.jobs = chosen(jobs(quick=options.quick, data=options.data), options.only)
    except ValueError as error:
        parser.error(str(error))
    if options.json.suffix != ".json":
        parser.error(f"--json: wanted a name that ends in .json, saw {options.json}")
    return options
