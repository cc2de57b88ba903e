"""Chromium without a window: what a page shows, says and writes on its console."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CONSOLE = re.compile(r":CONSOLE[:(]\d+\)?\] (.*)")


@dataclass(frozen=True)
class Visit:
    """dom: of the page after its scripts ran. console: every line that it wrote, errors included."""

    dom: str
    console: list[str]
    screenshot: Path


def chromium() -> str:
    """Where it is; skips the test where it is nowhere."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH (Debian: apt-get install chromium)")
    return found


def visit(page: Path, folder: Path, *, height: int = 5000) -> Visit:
    """Opens a page with an empty profile and without a network. folder: for the profile and the screenshot."""
    screenshot = folder / f"{page.stem}.png"
    command = [
        chromium(),
        *("--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-background-networking"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--dump-dom"),
        *(f"--user-data-dir={folder / 'profile'}", f"--window-size=1100,{height}", f"--screenshot={screenshot}"),
        page.resolve().as_uri(),
    ]
    if os.geteuid() == 0:
        # Its sandbox cannot be made by root.
        command.insert(1, "--no-sandbox")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and screenshot.is_file(), done.stderr[-2000:]
    return Visit(done.stdout, CONSOLE.findall(done.stderr), screenshot)
