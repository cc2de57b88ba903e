"""The entry point that veRL loads: silent unless asked for, loud where it cannot do what was asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tomllib

from sglang_seer.integrations.verl import plugin, versions

Loaders = dict[str, Callable[[], Any]]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Loaders:
    """veRL's registry of replicas, as far as the plugin uses it; versions as tested."""
    loaders: Loaders = {"sglang": lambda: "veRL's replica"}

    class Registry:
        _registry = loaders

        @classmethod
        def register(cls, name: str, loader: Callable[[], Any]) -> None:
            cls._registry[name] = loader

    module = ModuleType("verl.workers.rollout.replica")
    module.RolloutReplicaRegistry = Registry  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "verl.workers.rollout.replica", module)
    monkeypatch.setattr(plugin, "installed", {"verl": "0.9.1", "sglang": "0.5.12"}.get)
    return loaders


@pytest.mark.parametrize("mode", [None, "off"])
def test_nothing_happens_unless_asked_for(registry: Loaders, monkeypatch: pytest.MonkeyPatch, mode: str | None) -> None:
    monkeypatch.delenv("SGLANG_SEER", raising=False)
    if mode is not None:
        monkeypatch.setenv("SGLANG_SEER", mode)
    monkeypatch.setattr(plugin, "installed", {"verl": "0.1", "sglang": "0.1"}.get)
    plugin.load()
    assert registry["sglang"]() == "veRL's replica"


@pytest.mark.parametrize("mode", ["on", "observe"])
def test_servers_get_seer_where_asked_for(registry: Loaders, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("SGLANG_SEER", mode)
    server = ModuleType("sglang_seer.integrations.verl.server")
    server.SeerReplica = "Seer's replica"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sglang_seer.integrations.verl.server", server)
    plugin.load()
    assert registry["sglang"]() == "Seer's replica"


@pytest.mark.parametrize(
    ("found", "mode", "said"),
    [
        ({"verl": "0.9.1"}, "on", "SGLang is not installed in this environment"),
        ({"verl": "0.8.0", "sglang": "0.5.12"}, "on", "veRL 0.8.0 was not tested with Seer"),
        ({"verl": "0.9.1", "sglang": "0.5.9"}, "observe", "SGLang 0.5.9 was not tested with veRL 0.9.1"),
        ({"verl": "0.9.1", "sglang": "0.5.12"}, "yes", "SGLANG_SEER"),
    ],
)
def test_what_speaks_against_it_ends_the_process(
    registry: Loaders,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: dict[str, str],
    mode: str,
    said: str,
) -> None:
    monkeypatch.setenv("SGLANG_SEER", mode)
    monkeypatch.setattr(plugin, "installed", found.get)
    with pytest.raises(SystemExit) as caught:
        plugin.load()
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_another_registry_ends_the_process(
    registry: Loaders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SGLANG_SEER", "on")
    registry.clear()
    with pytest.raises(SystemExit):
        plugin.load()
    assert "veRL's registry of replicas is not as expected: KeyError" in capsys.readouterr().err


def test_veRL_itself_ends_with_the_reason(
    repository: Path, verl_python: Path, verl_environment: dict[str, str], tmp_path: Path
) -> None:
    """veRL's loader of plugins swallows exceptions; it must not swallow this. Its environment here has no SGLang."""
    groups = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["entry-points"]
    # What an installation leaves, in a folder on the path.
    metadata = tmp_path / "sglang_seer-0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang-seer\nVersion: 0.0\n")
    points = "".join(f"{name} = {value}\n" for name, value in groups["verl.plugins"].items())
    (metadata / "entry_points.txt").write_text(f"[verl.plugins]\n{points}")
    environment = {
        **verl_environment,
        "PYTHONPATH": f"{tmp_path}:{verl_environment['PYTHONPATH']}",
        "SGLANG_SEER": "on",
    }
    done = subprocess.run(
        [verl_python, "-P", "-c", "import verl"], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2
    assert "sglang-seer refuses to start:\n  - SGLang is not installed in this environment" in done.stderr


def test_the_table_names_what_veRL_pins() -> None:
    assert versions.TESTED == {"0.9.1": ("0.5.12",)}
