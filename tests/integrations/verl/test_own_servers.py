"""veRL's own SGLang servers, of SGLang 0.5.12, on a CPU: with Seer's client and with Seer in them, veRL's own samples.

Two jobs, each with a Ray of its own: veRL's manager of servers, its replica, router and agent loops, and the lines of
docs/verl.md. Nothing of veRL is replaced but what it takes from outside: a platform, as there is no accelerator, and a
source of new weights, as nobody trains.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cpu_platform.cpu_lines import EnvironmentUnavailable, plugin_folder, verl_line_python
from tests.rollout.real_engines import folder_of_example

JOB_TIMEOUT_S = 420.0
CHUNK_TOKENS = 16
CASES = ("plain", "limit at a seam", "abort", "weights")
SIDES = {"stock": {}, "seer": {"SGLANG_SEER": "on"}}

Side = dict[str, Any]


@pytest.fixture(scope="module")
def environment(
    verl_environment: dict[str, str], repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Of veRL's processes. Ray believes in GPUs that it is told of, but not where none may be seen."""
    plugin = plugin_folder(tmp_path_factory.mktemp("plugin"))
    ours = {
        "PYTHONPATH": os.pathsep.join([str(plugin), str(repository / "cpu_platform"), verl_environment["PYTHONPATH"]]),
        "SGLANG_PLATFORM": "seer_cpu",
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "seer_verl_job.verl_platform",
        # Else everything beside this test goes before Ray's processes.
        "RAY_worker_niceness": "0",
    }
    return {name: value for name, value in {**verl_environment, **ours}.items() if name != "CUDA_VISIBLE_DEVICES"}


@pytest.fixture(scope="module")
def sides(environment: dict[str, str], prompts: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Side]:
    """What came of `seer_verl_job.own` on a stock server, and on one with Seer; they run side by side."""
    try:
        python = verl_line_python()
    except EnvironmentUnavailable as error:
        pytest.skip(f"no environment with veRL and SGLang 0.5.12: {error}")
    folders = {name: tmp_path_factory.mktemp(name) for name in SIDES}
    with ExitStack() as stack:
        jobs = {}
        for name, folder in folders.items():
            plan = {
                "model": str(folder_of_example() / "model"),
                "prompts": prompts,
                "folder": str(folder),
                # Ray's sockets need a short path.
                "ray": str(tmp_path_factory.mktemp("ray")),
                "out": str(folder / "out.json"),
            }
            (folder / "plan.json").write_text(json.dumps(plan))
            jobs[name] = subprocess.Popen(
                [python, "-P", "-m", "seer_verl_job.own", folder / "plan.json"],
                cwd=folder,
                env={**environment, **SIDES[name]},
                stdout=stack.enter_context((folder / "job.log").open("wb")),
                stderr=subprocess.STDOUT,
            )
            # Ray ends its processes when their driver has gone.
            stack.callback(jobs[name].wait)
            stack.callback(jobs[name].terminate)
        statuses = {name: job.wait(JOB_TIMEOUT_S) for name, job in jobs.items()}
    for name, folder in folders.items():
        assert statuses[name] == 0, f"{name}: {(folder / 'job.log').read_text(errors='replace')[-4000:]}"
    return {name: json.loads((folder / "out.json").read_text()) for name, folder in folders.items()}


def test_nothing_failed(sides: dict[str, Side]) -> None:
    assert {name: side["errors"] for name, side in sides.items()} == {"stock": {}, "seer": {}}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("case", CASES)
def test_every_sample_is_veRLs_own(sides: dict[str, Side], side: str, case: str) -> None:
    wanted, got = sides["stock"][case]["wanted"], sides[side][case]["got"]
    assert len(wanted) == len(got) == 8
    for theirs, ours in zip(wanted, got, strict=True):
        assert ours["tokens"] == theirs["tokens"]
        assert ours["mask"] == theirs["mask"]
        assert ours["steps"] == theirs["steps"]
        assert max(abs(a - b) for a, b in zip(ours["logprobs"], theirs["logprobs"], strict=True)) < 1e-5
        assert ours["counts"] == [len(ours["tokens"])] * 2


def test_samples_differ_from_each_other(sides: dict[str, Side]) -> None:
    """Else their equality would show little."""
    samples = [tuple(sample["tokens"]) for sample in sides["stock"]["plain"]["wanted"]]
    assert len(set(samples)) == len(samples)


def test_the_servers_are_veRLs(sides: dict[str, Side]) -> None:
    """Those with Seer come from what the plugin registered in veRL's process."""
    assert {name: side["replicas"] for name, side in sides.items()} == {
        "stock": ["SGLangReplica"],
        "seer": ["SeerReplica"],
    }


def test_seer_was_on_where_it_was_asked_for(sides: dict[str, Side]) -> None:
    status = sides["seer"]["seer"]
    assert status["parts"] == ["scheduling", "speculation"]
    assert status["sglang_version"] == "0.5.12"
    assert status["counters"]["drafted"] > 0 and status["calls"]["verify"] > 0
    assert sides["stock"]["seer"] is None


def test_what_the_router_knows_of_a_server(sides: dict[str, Side]) -> None:
    """A stock one cannot tell its slots: veRL hands SGLang a wrong record, with which /server_info fails."""
    stock, seer = sides["stock"]["facts"], sides["seer"]["facts"]
    assert (stock["seer"], stock["capacity_tokens"]) == ("off", 6144)
    assert (seer["seer"], seer["capacity_tokens"], seer["slots"]) == ("on: scheduling, speculation", 6144, 12)


@pytest.mark.parametrize("side", SIDES)
def test_chunks_were_used(sides: dict[str, Side], side: str) -> None:
    case = sides[side]["plain"]
    chunks = case["after"]["chunks"] - case["before"]["chunks"]
    assert chunks >= sum(len(sample["tokens"]) for sample in case["got"]) / CHUNK_TOKENS > 2 * len(case["got"])


@pytest.mark.parametrize("side", SIDES)
def test_an_abort_of_veRLs_broke_chunks(sides: dict[str, Side], side: str) -> None:
    case = sides[side]["abort"]
    chunks = case["after"]["chunks"] - case["before"]["chunks"]
    assert chunks > sum(len(sample["tokens"]) for sample in case["got"]) / CHUNK_TOKENS
    assert case["after"]["engines_lost"] == 0


@pytest.mark.parametrize("side", SIDES)
def test_new_weights_arrived(sides: dict[str, Side], side: str) -> None:
    """By veRL's own update: with the seeds of the first case, other samples."""
    old, new = ([sample["tokens"] for sample in sides[side][case]["got"]] for case in ("plain", "weights"))
    assert old != new
    assert {tuple(sample["steps"]) for sample in sides[side]["weights"]["got"]} == {(1, 1)}
    assert sides[side]["weights"]["after"]["weight_version"] == "1"
