"""Three real engines on the CPU, veRL in an environment of its own, and what its job made of both."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from sglang_seer.demo.servers import Server, ServerPlan, pick_port, serve
from tests.rollout.conftest import COMMON_FLAGS, SIDES, START_TIMEOUT_S
from tests.rollout.real_engines import folder_of_example

# Set: an environment with veRL that is there already.
ENVIRONMENT = "SGLANG_SEER_VERL_ENV"
INSTALL_TIMEOUT_S = 540.0
JOB_TIMEOUT_S = 900.0
ENGINES = {"stock": "stock", "seer_a": "seer", "seer_b": "seer"}
STOPS = ["Answer: ", "ones 1", "so 2", ".\nNow #"]


@pytest.fixture(scope="session")
def verl_python(repository: Path) -> Path:
    """The Python of an environment with veRL, made by `./run install-verl` where it is missing."""
    if given := os.environ.get(ENVIRONMENT):
        return Path(given) / "bin" / "python"
    subprocess.run([repository / "run", "install-verl"], check=True, timeout=INSTALL_TIMEOUT_S)
    return repository / ".venv-verl" / "bin" / "python"


@pytest.fixture(scope="session")
def verl_environment(repository: Path) -> dict[str, str]:
    """Variables for veRL's processes: this tree, nobody's proxies, and no Seer but what the job asks for."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SGLANG_SEER", "RAY_"))}
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    paths = [str(repository), str(Path(__file__).parent)]
    return {**kept, **quiet, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """By name; started together, not ready yet; stopped at the end."""
    folder = tmp_path_factory.mktemp("engines")
    with ExitStack() as stack:
        started = {}
        for name, side in ENGINES.items():
            flags, extra = SIDES[side]
            environment = {"SGLANG_PLATFORM": "seer_cpu", "HF_HUB_OFFLINE": "1", **extra}
            plan = ServerPlan(label=name, port=pick_port(None), flags=(*COMMON_FLAGS, *flags), environment=environment)
            started[name] = stack.enter_context(serve(plan, folder))
        yield started


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """Texts of some problems."""
    sys.path.insert(0, str(folder_of_example()))
    try:
        import prompts as make
    finally:
        sys.path.remove(str(folder_of_example()))
    return [line["prompt"] for line in make.make_prompts(seed=11, n=2)]


def lines_of(script: Path) -> list[str]:
    """The settings that an example's script adds to veRL's."""
    known = {"$rollout": "actor_rollout_ref.rollout", "$here": str(script.parent)}
    found = re.findall(r'"(\+?\$rollout\.\S+=\S+)"', script.read_text())
    return [re.sub(r"\$\w+", lambda name: known[name[0]], line) for line in found]


@pytest.fixture(scope="session")
def job(
    engines: dict[str, Server],
    prompts: list[str],
    repository: Path,
    verl_python: Path,
    verl_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What came of every case of `drive`."""
    folder = tmp_path_factory.mktemp("job")
    tokenizer = AutoTokenizer.from_pretrained(folder_of_example() / "model")
    heart = tokenizer.encode("\u2764é", add_special_tokens=False)
    plan = {
        "engines": {name: server.plan.url for name, server in engines.items()},
        "seer_b_group": engines["seer_b"].process.pid,
        "model": str(folder_of_example() / "model"),
        "prompts": prompts,
        "stops": STOPS,
        "recipe": str(repository / "examples" / "verl"),
        "lines": lines_of(repository / "examples" / "verl" / "run.sh"),
        "biased": {"temperature": 4.0, "logit_bias": {str(token): 60.0 for token in heart}, "ignore_eos": True},
        "folder": str(folder),
        # Ray's sockets need a short path.
        "ray": str(tmp_path_factory.mktemp("ray")),
        "out": str(folder / "out.json"),
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    log = folder / "job.log"
    command = [verl_python, "-P", "-m", "seer_verl_job.drive", folder / "plan.json"]
    with log.open("wb") as out:
        # It imports veRL while the engines start.
        process = subprocess.Popen(command, cwd=folder, env=verl_environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            for server in engines.values():
                server.wait_until_ready(START_TIMEOUT_S)
            status = process.wait(JOB_TIMEOUT_S)
        finally:
            # Ray ends its processes when their driver has gone.
            process.terminate()
            process.wait()
    assert status == 0, log.read_text(errors="replace")[-4000:]
    result: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return result
