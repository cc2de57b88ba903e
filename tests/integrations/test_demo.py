"""The demo from end to end with real servers on the CPU platform, and what it says to bad input."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sglang_seer.demo.command import main
from sglang_seer.demo.plan import STOCK, Side
from sglang_seer.demo.servers import ServerPlan, environment
from sglang_seer.demo.warm import WARM_ENV

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "tiny_reasoner" / "model"
SMALL = ["--num-prompts", "3", "--n", "2", "--max-new-tokens", "200", "--max-running-requests", "4", "--engines", "1"]
DEMO_TIMEOUT_S = 500
KEYS = (
    "samples_total",
    "samples_identical",
    "throughput_ratio",
    "tail_ratio",
    "acceptance_length",
    "retractions",
    "retractions_stock",
    "mean_reward",
)


@pytest.mark.timeout(DEMO_TIMEOUT_S + 60)
def test_the_demo_from_end_to_end(tmp_path: Path) -> None:
    kept, png = tmp_path / "kept.json", tmp_path / "out.png"
    command = [sys.executable, "-m", "sglang_seer", "demo", *SMALL, "--json", str(kept), "--picture", str(png)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEMO_TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "samples identical to stock: 6 of 6" in done.stdout
    assert png.stat().st_size > 10_000
    content: dict[str, Any] = json.loads(kept.read_text())
    assert [key for key in KEYS if key not in content] == []
    assert (content["samples_total"], content["samples_identical"]) == (6, 6)
    assert content["machine"]["versions"]["sglang"] and content["machine"]["cores"] >= 1
    samples = content["samples"]
    # Seeds count: siblings are samples of their own, not copies.
    assert len({tuple(sample["output_ids"]) for sample in samples}) == 6
    assert all(sample["stock"]["finished_s"] > 0 and sample["seer"]["finished_s"] > 0 for sample in samples)
    assert all(sample["stock"]["verify_steps"] == 0 for sample in samples)
    assert any(sample["seer"]["verify_steps"] > 0 for sample in samples)
    assert content["acceptance_length"] > 1.0
    assert all(content["loads"][side] for side in ("stock", "seer"))


@pytest.mark.timeout(DEMO_TIMEOUT_S + 60)
def test_two_engines_against_two(tmp_path: Path) -> None:
    """Divided rollout against groups in turn; short chunks, so that samples are cut."""
    kept = tmp_path / "kept.json"
    buses = ["none", "ipc"]
    arguments = [*SMALL, "--engines", "2", "--chunk-tokens", "32", "--json", str(kept), "--picture", "out.png"]
    arguments += ["--compare-bus", *buses]
    command = [sys.executable, "-m", "sglang_seer", "demo", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEMO_TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    content: dict[str, Any] = json.loads(kept.read_text())
    assert [key for key in KEYS if key not in content] == []
    assert (content["samples_total"], content["samples_identical"]) == (6, 6)
    assert (content["settings"]["engines"], content["settings"]["chunk_tokens"]) == (2, 32)
    assert content["acceptance_length"] > 1.0
    assert list(content["acceptance_by_bus"]) == buses
    assert content["acceptance_by_bus"]["ipc"] == content["acceptance_length"]
    assert content["identical_by_bus"] == dict.fromkeys(buses, 6)
    assert "nothing shared" in done.stdout and "shared over ZeroMQ: 6 of 6" in done.stdout


@pytest.mark.timeout(DEMO_TIMEOUT_S + 60)
def test_a_sample_that_differs_ends_in_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Negative control: the second server runs a model that is changed a little, so its samples must differ."""
    changed = Side(
        label="seer",
        flags=("--json-model-override-args", '{"rms_norm_eps": 0.1}'),
        environment=dict(STOCK.environment),
    )
    kept = tmp_path / "kept.json"
    assert main([*SMALL, "--json", str(kept), "--picture", str(tmp_path / "out.png")], seer=changed) == 1
    error = capsys.readouterr().err
    assert "differs from token" in error
    content = json.loads(kept.read_text())
    different = [sample for sample in content["samples"] if not sample["identical"]]
    assert len(different) == 6 - content["samples_identical"] > 0
    assert all(sample["seer_output_ids"] != sample["output_ids"] for sample in different)


def test_a_server_that_dies_at_its_start_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Side(label="stock", flags=("--no-such-flag",))
    assert main([*SMALL, "--picture", str(tmp_path / "out.png")], stock=broken) == 2
    error = capsys.readouterr().err
    assert "the stock server failed: it ended with exit status" in error
    assert "unrecognized arguments: --no-such-flag" in error
    assert "stock.log" in error


def test_an_interrupt_stops_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes as soon as the server's process is there, when its creation may not have returned yet."""
    monkeypatch.delenv(WARM_ENV, raising=False)
    command = [sys.executable, "-m", "sglang_seer", "demo", *SMALL]

    def not_ignoring_interrupts() -> None:
        # A shell's background job inherits that SIGINT is ignored, and Python leaves it so.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=not_ignoring_interrupts,
    )
    try:
        assert process.stdout is not None
        while "starting the server" not in process.stdout.readline():
            assert process.poll() is None
        servers = wait_for_children(process.pid)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted; the servers are stopped" in error
    assert [pid for pid in servers if Path(f"/proc/{pid}").exists()] == []


def wait_for_children(pid: int) -> list[int]:
    """Children of a process, as soon as it has any."""
    for _ in range(1200):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        if text.strip():
            return [int(word) for word in text.split()]
        time.sleep(0.1)
    raise AssertionError("no server was started")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ('{"prompt": "1+1"}\n{"prompt": 3}\n', "line 2: Expected `str`, got `int`"),
        ('{"prompt": "1+1"}\n\n{"prompt": \n', "line 3: Input data was truncated"),
        ('{"answer": "2"}\n', "line 1: Object missing required field `prompt`"),
        ("\n", "wanted at least one prompt, saw none"),
        (None, "No such file or directory"),
    ],
)
def test_bad_prompts_are_named(
    lines: str | None, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.jsonl"
    if lines is not None:
        file.write_text(lines)
    assert main(["--prompts", str(file)]) == 2
    error = capsys.readouterr().err
    assert str(file) in error and reason in error


@pytest.mark.parametrize("config", [None, "{", "{}"])
def test_a_model_that_cannot_be_read_is_named(
    config: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert main(["--model", str(tmp_path)]) == 2
    assert f"--model {tmp_path}" in capsys.readouterr().err


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    assert f"--port {port}: wanted a free port" in capsys.readouterr().err


def test_a_prompt_longer_than_the_context_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": "Add up 1, 2."}) + "\n" + json.dumps({"prompt": "9 " * 5000}) + "\n")
    assert main(["--prompts", str(file)]) == 2
    assert "prompt 2: " in capsys.readouterr().err


def test_a_file_in_a_missing_folder_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "missing" / "kept.json"
    assert main(["--json", str(target)]) == 2
    assert str(target) in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--n", "0"], ["--n", "two"], ["--unknown"]])
def test_arguments_that_make_no_sense_end_in_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_buses_that_cannot_be_compared_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--engines", "1", "--compare-bus", "none"]) == 2
    assert "--compare-bus: wanted at least 2 engines to share text, saw --engines 1" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert main(["--compare-bus", "none", "redis"]) == 2
    assert "wanted one of redis-server, valkey-server on PATH" in capsys.readouterr().err


def test_the_environment_of_the_caller_does_not_leak_into_the_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's SGLANG_SEER=off must not turn the demo's Seer side off."""
    monkeypatch.setenv("SGLANG_SEER", "off")
    monkeypatch.setenv("SGLANG_OTHER", "kept")
    plan = ServerPlan(label="x", port=1, flags=(), environment={"SGLANG_PLATFORM": "seer_cpu"})
    seen = environment(plan)
    assert (seen["SGLANG_PLATFORM"], seen["SGLANG_OTHER"]) == ("seer_cpu", "kept")
    assert "SGLANG_SEER" not in seen
