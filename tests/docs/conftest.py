"""One real engine on the CPU for all commands and examples of the documentation, started as the README says."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sglang_seer.demo.servers import ServerPlan, pick_port, serve
from tests.docs.commands import is_launch
from tests.docs.pages import ROOT, Command, blocks, commands
from tests.docs.place import Place, model, run
from tests.reasoner import REASONER

START_TIMEOUT_S = 240.0
# Besides what the README says: several servers share two cores.
SMALL = ("--max-total-tokens", "8192", "--max-running-requests", "16", "--sleep-on-idle")


@pytest.fixture(scope="session")
def first_launch() -> Command:
    """The README's first command that starts a server."""
    return next(filter(is_launch, commands(ROOT / "README.md")))


@pytest.fixture(scope="session")
def engine_url(first_launch: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    flags = [model() if word == "M" else word for word in first_launch.words[3:]]
    environment = {"SGLANG_PLATFORM": "seer_cpu", "HF_HUB_OFFLINE": "1"}
    plan = ServerPlan(label="readme", port=pick_port(None), flags=(*flags, *SMALL), environment=environment)
    with serve(plan, tmp_path_factory.mktemp("engine")) as server:
        server.wait_until_ready(START_TIMEOUT_S)
        yield plan.url
        server.check()


@pytest.fixture(scope="session")
def files(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands read: two prompts, two run files, the pages' TOML file."""
    folder = tmp_path_factory.mktemp("files")
    (toml,) = (block.text for block in blocks(ROOT / "docs" / "tuning.md") if block.language == "toml")
    (folder / "seer.toml").write_text(toml)
    run(["python", str(REASONER / "prompts.py"), "--n", "2", "--level", "easy", "--out", "prompts.jsonl"], folder)
    rollout = ["python", "-m", "sglang_seer", "rollout", "--engines", engine_url, "--prompts", "prompts.jsonl"]
    for name in ("run", "other"):
        more = ["--n", "2", "--max-new-tokens", "32", "--out", f"{name}-samples.jsonl", "--run", f"{name}.jsonl"]
        run([*rollout, *more], folder)
    return folder


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[bool], Place]:
    """A folder of its own; with the engine and the files where a command is run."""

    def make(whole: bool) -> Place:
        if not whole:
            return Place(tmp_path, "")
        shutil.copytree(request.getfixturevalue("files"), tmp_path, dirs_exist_ok=True)
        return Place(tmp_path, request.getfixturevalue("engine_url"))

    return make
