"""Fixtures of no room in particular."""

from pathlib import Path

import pytest
from hypothesis import settings

from sglang_seer.demo.servers import pick_port

# An example may take as long as the machine wants it to.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def free_port() -> int:
    """A port that was free on the loopback address a moment ago."""
    return pick_port(None)
