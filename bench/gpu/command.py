"""`python -m sglang_seer bench gpu`: all that only a GPU can tell, on one CUDA host, without a network.

Parts: the verifier; drafting on this host's CPU; step times of 0.6B, 8B and 32B shapes with random weights; rollouts
by replay on one engine and on two that share the GPU, stock against NGRAM against Seer; samples against stock SGLang's
with and without CUDA graphs and overlap. A part takes at most 8 minutes and one that fails does not stop the others. A
run that was cut off goes on where it was: what the same code did on the same machine before is kept.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from bench.gpu import plan
from bench.jobs import Job, carry_out, chosen, outcome_table
from bench.rows import ROOT, header

PACKAGES = ("sglang-seer", "sglang", "sglang-kernel", "torch", "triton", "transformers", "numpy")
# Lines whose engines can share text over the bus.
SHARING_LINES = {"0.5.23"}
SUMMARY = "summary.json"


def main(argv: Sequence[str]) -> int:
    """0 when every part was done, 1 where one failed, 2 for bad arguments or a machine without CUDA."""
    options = _parse(argv)
    if not options.quick_cpu and not torch.cuda.is_available():
        print(
            f"gpu: torch {torch.__version__} sees no CUDA device here, and this suite is about one. `--quick-cpu` runs "
            "tiny versions of all parts on the CPU, which say nothing about a GPU",
            file=sys.stderr,
        )
        return 2
    try:
        jobs = chosen(_jobs(options), options.only)
    except ValueError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    folder = options.json_folder or _default_folder(options.quick_cpu)
    head = header("python -m sglang_seer bench gpu", PACKAGES)
    head["versions"]["cuda"] = torch.version.cuda
    logs = Path(tempfile.mkdtemp(prefix="seer-gpu-"))
    outcomes = carry_out(jobs, folder, folder / SUMMARY, head, again=options.again, logs=logs)
    print(outcome_table(f"Parts, in {folder}", outcomes))
    if all(one.good for one in outcomes):
        shutil.rmtree(logs)
        return 0
    return 1


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench gpu", description=__doc__)
    parser.add_argument("--json-folder", type=Path, help="for all results (default bench/results/NAME_OF_THE_GPU)")
    parser.add_argument("--only", help="parts by comma; --list names them")
    parser.add_argument("--list", action="store_true", help="only tell the parts and how they are run")
    parser.add_argument("--again", action="store_true", help="also what was done before")
    parser.add_argument("--data", type=Path, help="recorded text for the rollouts (*.jsonl.zst); else generated text")
    parser.add_argument(
        "--engine-flag", action="append", help=f"for every engine (default {' '.join(plan.ENGINE_FLAGS)})"
    )
    parser.add_argument("--quick-cpu", action="store_true", help="tiny versions of all parts on a CPU")
    options = parser.parse_args(argv)
    if options.list:
        for job in _jobs(options):
            print(f"{job.name}: python -m sglang_seer bench {' '.join(job.argv)}")
        raise SystemExit(0)
    return options


def _jobs(options: argparse.Namespace) -> list[Job]:
    if options.quick_cpu:
        return plan.quick_cpu()
    try:
        shares = version("sglang") in SHARING_LINES
    except PackageNotFoundError:
        shares = False
    return plan.full(shares=shares, flags=options.engine_flag or plan.ENGINE_FLAGS, data=options.data)


def _default_folder(quick_cpu: bool) -> Path:
    if quick_cpu:
        # Ignored by git: these numbers say nothing.
        return ROOT / "build" / "gpu-quick-cpu"
    name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    return ROOT / "bench" / "results" / name
