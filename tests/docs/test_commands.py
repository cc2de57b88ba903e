"""Every command of README.md and docs/ is run on a real engine, or checked for a reason that is stated."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.commands import RULES, is_launch, rule_of
from tests.docs.pages import Command, commands, pages
from tests.docs.place import COMMAND_TIMEOUT_S, Place, environment, model

ALL = [command for page in pages() for command in commands(page)]
LAUNCHES = list({command.text: command for command in ALL if is_launch(command)}.values())
# The same command on several pages is run once.
OTHERS = list({(command.text, command.whole): command for command in ALL if not is_launch(command)}.values())


def made_up(text: str) -> Command:
    return Command("a page", 1, text, whole=True)


@pytest.mark.parametrize("command", OTHERS, ids=lambda command: f"{command.page}:{command.line}")
def test_a_command_works(command: Command, place: Callable[[bool], Place]) -> None:
    rule = rule_of(command)
    rule.run(command, place(rule.runs))


def read_launches(launches: list[Command], folder: Path) -> list[list[str] | str]:
    """What SGLang's own parser makes of them, with the plugin loaded; or what it says against them."""
    words = [[[model() if word == "M" else word for word in one.words], one.environment] for one in launches]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("launches.py"))],
        input=json.dumps(words),
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(),
        timeout=COMMAND_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[list[str] | str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_servers_start_as_the_pages_say(place: Callable[[bool], Place]) -> None:
    """The README's first one is really started: it is the engine of the other commands."""
    wrong = [
        made_up("python -m sglang.launch_server --model-path M --scheduler-policy sear"),
        made_up("python -m sglang.launch_server --model-path M --seer-config seer.toml"),
    ]
    here = place(True)
    *seen, misspelt, without_policy = read_launches([*LAUNCHES, *wrong], here.folder)
    for launch, found in zip(LAUNCHES, seen, strict=True):
        asked = "--schedule" in launch.text or launch.environment.get("SGLANG_SEER") == "on"
        assert found == (["seer", "SEER"] if asked else ["fcfs", "None"]), f"{launch}: {found}"
    assert "sear" in misspelt and "invalid choice" in misspelt
    assert "a seer config was given" in without_policy


@pytest.mark.parametrize(
    "text",
    [
        "python -m sglang_seer rollout --engines http://a:30000 --prompts p.jsonl --outt samples.jsonl",
        "python -m sglang_seer rolout --engines http://a:30000",
        "python -m sglang_seer bench rollout --workload crowdy",
        "python -m sglang_seer bench nothing",
        "./run tset",
        "./run test schedul",
        "./run demo --compare-bus nats",
        "pip install 'sglang-seer[all]'",
        "pip install sglang-sear",
        "uv pip install --pithon /tmp/x sglang",
        "python examples/tiny_reasoner/evaluate.py --nothing",
        "pytest bench/macro",
    ],
)
def test_a_command_that_is_wrong_is_seen(text: str, tmp_path: Path) -> None:
    """Negative control of the checks."""
    command = made_up(text)
    rule = next(rule for rule in RULES if not rule.runs and rule.takes(command))
    with pytest.raises((AssertionError, LookupError)):
        rule.run(command, Place(tmp_path, ""))


@pytest.mark.parametrize("text", ["python -m sglang_sear doctor", "seer start", "docker run seer"])
def test_a_command_that_nobody_knows_is_seen(text: str) -> None:
    with pytest.raises(LookupError, match="no test knows this command"):
        rule_of(made_up(text))


def test_a_command_that_fails_is_seen(place: Callable[[bool], Place]) -> None:
    with pytest.raises(AssertionError, match="ended with 2"):
        place(True).run(made_up("python -m sglang_seer report nothing.jsonl"))


def test_what_is_not_run_has_a_reason() -> None:
    assert all(rule.why for rule in RULES)
    run = [one for one in OTHERS if rule_of(one).runs]
    assert len(run) >= 8, "most commands of the pages would be checked only"
