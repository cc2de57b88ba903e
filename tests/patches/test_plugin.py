"""Configuration, the entry point's refusals, and what server arguments become."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sglang_seer import plugin
from sglang_seer.config import SeerConfig, mode_from_environment, parse_config
from sglang_seer.status import STATUS, Status


def test_config_from_every_source(tmp_path: Path) -> None:
    as_json, as_toml = tmp_path / "a.json", tmp_path / "a.toml"
    as_json.write_text('{"draft_nodes": 4}')
    as_toml.write_text("draft_nodes = 4\n")
    wanted = SeerConfig(draft_nodes=4)
    for source in (as_json, str(as_toml), '{"draft_nodes": 4}', {"draft_nodes": 4}, wanted):
        assert parse_config(source) == wanted
    assert parse_config(None) == SeerConfig()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('{"draft_nodse": 8}', "draft_nodse.*known keys: speculation, draft_nodes"),
        ('{"draft_nodes": "8"}', "int.*draft_nodes"),
        ('{"draft_nodes": 64, "starvation_limit": 0}', "draft_nodes = 64, wanted 1 to 63; starvation_limit = 0"),
        ('{"speculation": true', "truncated"),
        ("seer.yaml", r"ends in .json or .toml, got '.yaml'"),
        ("/nonexistent/seer.json", "cannot read it: No such file"),
    ],
)
def test_bad_config_says_what_was_seen(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(source)


def test_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SGLANG_SEER", raising=False)
    assert mode_from_environment() is None
    for text in ("off", "observe", "on", " ON "):
        monkeypatch.setenv("SGLANG_SEER", text)
        assert mode_from_environment() == text.strip().lower()
    monkeypatch.setenv("SGLANG_SEER", "maybe")
    with pytest.raises(ValueError, match="got 'maybe', wanted off, observe or on"):
        mode_from_environment()


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["--schedule-policy", "seer"], True),
        (["--scheduler-policy=seer"], True),
        (["--schedule-policy", "lpm", "seer"], False),
        (["--schedule-policy"], False),
        ([], False),
    ],
)
def test_a_request_for_seer_is_seen_on_the_command_line(argv: list[str], wanted: bool) -> None:
    assert plugin.requested(argv) is wanted


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "startup_reasons", lambda: ["first reason", "second reason"])
    monkeypatch.setattr(sys, "argv", ["launch_server.py"])
    monkeypatch.delenv("SGLANG_SEER", raising=False)


@pytest.mark.usefixtures("broken")
def test_refusal_passes_through_sglangs_loader_with_all_reasons(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SGLANG_SEER", "on")
    with pytest.raises(SystemExit) as refused:  # SGLang's loader catches Exception, which SystemExit is not
        plugin.load()
    assert refused.value.code == plugin.EXIT_REFUSED
    shown = capsys.readouterr().err
    assert "first reason" in shown and "second reason" in shown


def test_hooks_that_cannot_be_registered_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang_seer.patches import lines

    def fail(_patch_set: object) -> None:
        raise AttributeError("no such hook")

    monkeypatch.setattr(plugin, "startup_reasons", list)
    monkeypatch.setattr(lines, "install", fail)
    monkeypatch.setenv("SGLANG_SEER", "on")
    with pytest.raises(SystemExit):
        plugin.load()
    assert STATUS.reasons == ["the hooks cannot be registered: AttributeError: no such hook"]


@pytest.mark.usefixtures("broken")
def test_nobody_asked_so_nothing_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    plugin.load()
    assert "stays inactive: first reason; second reason" in caplog.text
    assert STATUS.reasons == ["first reason", "second reason"]


def test_first_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    status = Status()
    for _ in range(3):
        status.first("event", "happened to %s", "me")
    assert status.counters["event"] == 3
    assert caplog.text.count("seer: happened to me") == 1


class TestActivate:
    """What `schedule_policy` and SGLANG_SEER make of server arguments."""

    @pytest.fixture(autouse=True)
    def _clean(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SGLANG_SEER", raising=False)
        monkeypatch.delenv("SGLANG_SEER_CONFIG", raising=False)

    def activate(self, arguments: dict[str, Any], config: Any = None) -> SeerConfig | None:
        from sglang_seer.engine.launch import activate

        return activate(arguments, config)

    def test_policy_brings_speculation(self) -> None:
        arguments = {"schedule_policy": "seer"}
        assert self.activate(arguments, {"draft_nodes": 5}) == SeerConfig(draft_nodes=5)
        assert arguments == {
            "schedule_policy": "seer",
            "speculative_algorithm": "SEER",
            "speculative_num_draft_tokens": 6,
        }

    def test_another_algorithm_stays(self) -> None:
        arguments = {"schedule_policy": "seer", "speculative_algorithm": "EAGLE"}
        assert self.activate(arguments) is not None
        assert arguments["speculative_algorithm"] == "EAGLE"

    def test_scheduling_alone(self) -> None:
        arguments = {"schedule_policy": "seer"}
        self.activate(arguments, '{"speculation": false}')
        assert arguments == {"schedule_policy": "seer"}

    def test_stock_stays_stock(self) -> None:
        for policy in ("fcfs", "lpm"):
            arguments = {"schedule_policy": policy}
            assert self.activate(arguments) is None
            assert arguments == {"schedule_policy": policy}

    def test_environment_switches_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SGLANG_SEER", "on")
        arguments: dict[str, Any] = {}
        assert self.activate(arguments) == SeerConfig()
        assert arguments["schedule_policy"] == "seer" and arguments["speculative_algorithm"] == "SEER"

    def test_environment_switches_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SGLANG_SEER", "off")
        arguments = {"schedule_policy": "seer"}
        assert self.activate(arguments) is None
        assert arguments == {"schedule_policy": "fcfs"}

    def test_observe_changes_nothing_but_the_policy_object(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SGLANG_SEER", "observe")
        arguments = {"schedule_policy": "seer"}
        assert self.activate(arguments) is not None
        assert "speculative_algorithm" not in arguments

    def test_contradictions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match="config was given but the schedule policy is 'fcfs'"):
            self.activate({}, {"draft_nodes": 3})
        with pytest.raises(ValueError, match="enable-priority-scheduling"):
            self.activate({"schedule_policy": "seer", "enable_priority_scheduling": True})
        monkeypatch.setenv("SGLANG_SEER", "on")
        with pytest.raises(ValueError, match="'lpm' contradict"):
            self.activate({"schedule_policy": "lpm"})


def test_doctor_reports_as_json() -> None:
    command = [sys.executable, "-m", "sglang_seer", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads(done.stdout)
    assert status["reasons"] == [] and status["sglang_version"] == "0.5.23"
