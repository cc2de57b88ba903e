"""Engines that start from a warm process: they are what a new interpreter would start, or it refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_seer.demo import warm
from sglang_seer.demo.plan import shared_environment
from sglang_seer.demo.servers import Server, ServerPlan, serve
from tests.cpu_platform.conftest import GREEDY, PROMPTS
from tests.cpu_platform.engines import Answers, tokens

START_TIMEOUT_S = 240.0
FLAGS = ("--skip-tokenizer-init", "--log-level", "warning", "--sleep-on-idle")


def wait_for(path: Path) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(path))
            except OSError:
                assert time.monotonic() < deadline, f"nobody listens at {path}"
            else:
                return
        time.sleep(0.2)


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a warm process: that of the whole run, or our own."""
    if there := os.environ.get(warm.WARM_ENV):
        wait_for(Path(there))
        yield Path(there)
        return
    path = tmp_path_factory.mktemp("warm") / "socket"
    command = [sys.executable, "-m", "sglang_seer_cpu.warm", str(path)]
    process = subprocess.Popen(command, cwd=path.parent, env={**os.environ, **shared_environment()})
    try:
        wait_for(path)
        yield path
    finally:
        process.terminate()
        assert process.wait(30) == 0


@pytest.fixture(autouse=True)
def it_is_there(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(warm.WARM_ENV, str(socket_path))


def plan(model: Path, port: int, *flags: str) -> ServerPlan:
    flags = ("--model-path", str(model), *FLAGS, *flags)
    return ServerPlan(label="warm", port=port, flags=flags, environment={**shared_environment(), "SGLANG_SEER": "off"})


def ended(server: Server) -> int:
    """The status of a server that ends by itself."""
    return server.process.wait(START_TIMEOUT_S)


def test_its_engine_answers_as_any_other(model: Path, plain: Answers, free_port: int, tmp_path: Path) -> None:
    with serve(plan(model, free_port), tmp_path) as server:
        assert isinstance(server.process, warm.WarmProcess)
        server.wait_until_ready(START_TIMEOUT_S)
        body = json.dumps({"input_ids": PROMPTS[0], "sampling_params": GREEDY.sampling_params[0]}).encode()
        request = urllib.request.Request(f"{server.plan.url}/generate", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            assert json.load(response)["output_ids"] == tokens(plain[0])[0]
        # A process group of its own, in its folder, with its environment.
        assert os.getpgid(server.process.pid) == server.process.pid
        assert Path(f"/proc/{server.process.pid}/cwd").resolve() == tmp_path.resolve()
        assert server.process.poll() is None
    assert ended(server) in (0, -signal.SIGTERM, -signal.SIGKILL)


def test_it_ends_as_any_other(model: Path, free_port: int, tmp_path: Path) -> None:
    with serve(plan(model, free_port, "--no-such-flag"), tmp_path) as server:
        assert isinstance(server.process, warm.WarmProcess)
        assert ended(server) == 2
        assert "unrecognized arguments: --no-such-flag" in server.log.read_text()
    with serve(plan(model, free_port), tmp_path) as server:
        os.killpg(server.process.pid, signal.SIGKILL)
        assert ended(server) == -signal.SIGKILL == server.process.poll()


@pytest.mark.parametrize(
    ("change", "starts"),
    [
        ({"SGLANG_SEER": "observe", "SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS": "15"}, True),
        ({"SGLANG_SEER_CPU_THREADS": "2"}, False),
        ({"TRITON_INTERPRET": "1"}, False),
        ({"HF_HUB_OFFLINE": None}, False),
    ],
)
def test_what_libraries_read_must_be_equal(change: dict[str, str | None], starts: bool, tmp_path: Path) -> None:
    changed = {**os.environ, **shared_environment(), **change}
    environment = {name: value for name, value in changed.items() if value is not None}
    command = [sys.executable, "-m", "sglang.launch_server", "--no-such-flag"]
    with (tmp_path / "log").open("wb") as log:
        process = warm.start(command, folder=tmp_path, environment=environment, log=log)
    assert (process is not None) == starts
    if process is not None:
        assert process.wait(START_TIMEOUT_S) == 2


def test_folders_to_import_from(tmp_path: Path) -> None:
    """They are searched first, as in a new interpreter; what is imported already must not come from there."""
    (tmp_path / "sitecustomize.py").write_text("import own\n")
    (tmp_path / "own.py").write_text("import sys\nprint('own, before SGLang:', 'sglang' not in sys.modules)\n")
    environment = {**os.environ, **shared_environment(), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "sglang.launch_server", "--no-such-flag"]
    with (tmp_path / "log").open("wb") as log:
        process = warm.start(command, folder=tmp_path, environment=environment, log=log)
        assert process is not None and process.wait(START_TIMEOUT_S) == 2
        assert "own, before SGLang: True" in (tmp_path / "log").read_text()
        (tmp_path / "numpy.py").touch()
        assert warm.start(command, folder=tmp_path, environment=environment, log=log) is None


def test_other_commands_and_no_warm_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, **shared_environment()}
    with (tmp_path / "log").open("wb") as log:
        for command in (["/usr/bin/python3", "-m", "sglang.launch_server"], [sys.executable, "-m", "this"]):
            assert warm.start(command, folder=tmp_path, environment=environment, log=log) is None
        monkeypatch.setenv(warm.WARM_ENV, str(tmp_path / "nobody"))
        assert warm.start([sys.executable], folder=tmp_path, environment=environment, log=log) is None
        monkeypatch.delenv(warm.WARM_ENV)
        assert warm.start([sys.executable], folder=tmp_path, environment=environment, log=log) is None


def test_a_process_outlives_the_warm_one() -> None:
    """Whether it lives is still known, not what it ends with."""
    theirs, ours = socket.socketpair()
    sleeper = subprocess.Popen(["sleep", "600"])
    process = warm.WarmProcess(ours, sleeper.pid)
    assert process.poll() is None
    theirs.close()
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired, match=f"process {sleeper.pid}"):
        process.wait(0.1)
    sleeper.kill()
    assert process.wait(60) == process.poll() == warm.UNKNOWN_STATUS
    sleeper.wait()


def test_sglang_imports_by_itself_what_was_imported_for_it(tmp_path: Path) -> None:
    program = """
import sys
import sglang.launch_server, sglang.srt.entrypoints.http_server
from sglang_seer_cpu import warm
print([name for name in warm.IMPORTS if sys.modules.get(name) is None])
"""
    environment = {**os.environ, **shared_environment(), "SGLANG_SEER": "off"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
