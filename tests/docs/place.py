"""Where the documentation's commands run: a real engine on this machine's CPU, and a folder with their files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import ROOT, Command
from tests.reasoner import REASONER

COMMAND_TIMEOUT_S = 400.0
# Limits of examples; the tiny model knows one task and may go on for long with anything else.
SHORTER = {"8192": "48", "4096": "48"}


@dataclass(frozen=True, slots=True)
class Place:
    """folder: the working folder of commands. url: the engine's, on 127.0.0.1."""

    folder: Path
    url: str

    def real(self, text: str) -> str:
        """A command or an example with this machine's names in place of those of the page."""
        by_name = self.url.replace("127.0.0.1", "localhost")
        # One engine under two names.
        names = {
            "http://a:30000": self.url,
            "http://b:30000": by_name,
            "localhost:30000": by_name.split("//")[1],
            "ENGINE/": f"{self.url}/",
        }
        for name, ours in names.items():
            text = text.replace(name, ours)
        return text.replace("python examples/", f"python {ROOT}/examples/")

    def run(self, command: Command) -> str:
        """The output of a command that bash runs. Raises AssertionError with it for another status than 0."""
        return run(["bash", "-euo", "pipefail", "-c", self.real(command.text)], self.folder)

    def python(self, code: str) -> str:
        """The output of code in a process of its own."""
        path = self.folder / "example.py"
        path.write_text(code)
        return run([sys.executable, str(path)], self.folder)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The tests' Python and package first; nothing that a caller set for Seer."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SGLANG_SEER")}
    path = os.pathsep.join([str(Path(sys.executable).parent), ours.get("PATH", "")])
    package = os.pathsep.join([str(ROOT), *filter(None, [ours.get("PYTHONPATH")])])
    fixed = {"PATH": path, "PYTHONPATH": package, "SGLANG_PLATFORM": "seer_cpu", "HF_HUB_OFFLINE": "1"}
    return {**ours, **fixed, **(more or {})}


def run(arguments: list[str], folder: Path, more: Mapping[str, str] | None = None) -> str:
    """Both outputs together. Raises AssertionError for another status than 0."""
    done = subprocess.run(
        arguments,
        cwd=folder,
        env=environment(more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout[-3000:]}"
    return done.stdout


def model() -> str:
    return str(REASONER / "model")
