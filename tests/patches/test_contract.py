"""The contract check: holds on the installed SGLang and its wheel, and sees every kind of drift."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import pytest

from sglang_seer.demo.plan import shared_environment
from sglang_seer.demo.servers import start
from sglang_seer.patches import lines
from sglang_seer.patches.contract import Target, drift, fingerprint_of, locate, parameters_of
from sglang_seer.patches.ledger import PatchSet, on_another_line


@pytest.fixture(scope="session")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the `sglang` package of a version's wheel, without its dependencies."""
    folders: dict[str, Path] = {}

    def unpack(version: str) -> Path:
        if version not in folders:
            folder = tmp_path_factory.mktemp(f"sglang-{version}")
            command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
            subprocess.run([*command, f"sglang=={version}"], check=True, timeout=300)
            folders[version] = folder / "sglang"
        return folders[version]

    return unpack


@pytest.mark.parametrize("patch_set", lines.SUPPORTED.values(), ids=lambda patch_set: patch_set.version)
def test_every_target_of_a_supported_wheel_is_as_recorded(
    patch_set: PatchSet, unpacked_wheel: Callable[[str], Path]
) -> None:
    assert lines.refusal_reasons(unpacked_wheel(patch_set.version), patch_set.version) == []


@pytest.mark.parametrize(
    ("version", "taken_for"), [("0.5.12", "0.5.15.post1"), ("0.5.15.post1", "0.5.12"), ("0.5.15.post1", "0.5.23")]
)
def test_no_line_is_taken_for_another(version: str, taken_for: str, unpacked_wheel: Callable[[str], Path]) -> None:
    """Names that are on both lines have changed inside; others are on one of them only."""
    reasons = lines.refusal_reasons(unpacked_wheel(version), taken_for)
    assert any("source has changed" in reason for reason in reasons)
    assert any("is gone" in reason for reason in reasons)


def test_a_version_between_lines_is_refused(unpacked_wheel: Callable[[str], Path]) -> None:
    reasons = lines.refusal_reasons(unpacked_wheel("0.5.15.post1"), "0.5.16")
    assert reasons[0].startswith("SGLang 0.5.16 is not supported; supported: 0.5.23, 0.5.15.post1, 0.5.12 (")


def test_untested_versions_run_at_own_risk_on_equal_signatures(
    unpacked_wheel: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = unpacked_wheel("0.5.23")
    assert lines.refusal_reasons(root, "0.5.24")
    monkeypatch.setenv(lines.ALLOW_UNTESTED_ENV, "1")
    assert lines.refusal_reasons(root, "0.5.24") == []


SOURCE = '''
class Engine:
    """Docstring."""

    def step(self, batch, *, fast=False, **rest):
        """One step."""
        # a comment
        return batch + 1

if True:
    def guarded(x):
        return x
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package `sglang` with one module."""
    root = tmp_path / "sglang"
    root.mkdir()
    (root / "engine.py").write_text(SOURCE)
    return root


def recorded(root: Path) -> Target:
    bare = Target("sglang.engine", "Engine.step")
    node = locate(root, bare)
    assert not isinstance(node, str)
    return Target(bare.module, bare.name, parameters_of(node), fingerprint_of(node))


def changed(tmp_path: Path, old: str, new: str) -> Path:
    root = tmp_path / "changed" / "sglang"
    root.mkdir(parents=True)
    assert old in SOURCE
    (root / "engine.py").write_text(SOURCE.replace(old, new))
    return root


def test_recorded_target_holds(package: Path) -> None:
    target = recorded(package)
    assert target.parameters == ("self", "batch", "fast", "**rest")
    assert drift(package, target) is None
    assert drift(package, Target("sglang.engine", "guarded", ("x",))) is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("def step", "def stride", "'step' is gone from sglang.engine"),
        ("class Engine", "class Motor", "'Engine' is gone from sglang.engine"),
        ("batch, *", "batch, extra, *", "parameters are ('self', 'batch', 'extra', 'fast', '**rest')"),
        ("batch + 1", "batch + 2", "source has changed"),
    ],
)
def test_drift_is_seen(package: Path, tmp_path: Path, old: str, new: str, reason: str) -> None:
    seen = drift(changed(tmp_path, old, new), recorded(package))
    assert seen is not None and reason in seen and seen.startswith("sglang.engine.Engine.step")


@pytest.mark.parametrize(
    ("old", "new"), [("# a comment", "# another"), ("One step.", "Two steps."), ("batch + 1", "(batch  +  1)")]
)
def test_comments_docstrings_and_formatting_are_no_drift(package: Path, tmp_path: Path, old: str, new: str) -> None:
    assert drift(changed(tmp_path, old, new), recorded(package)) is None


def test_a_lost_module_is_seen(package: Path) -> None:
    assert drift(package, Target("sglang.gone", "f")) == "sglang.gone.f: module sglang.gone is gone"


@pytest.mark.parametrize("disturbed", [1, 2])
def test_a_parse_that_is_disturbed_is_done_once_more(
    package: Path, monkeypatch: pytest.MonkeyPatch, disturbed: int
) -> None:
    """Stands for what CPython 3.11.7 does where a collector parses meanwhile, which other versions do not."""
    parse, calls = ast.parse, count(1)

    def disturbed_at_first(*arguments: Any, **keywords: Any) -> ast.Module:
        if next(calls) <= disturbed:
            raise SystemError("AST constructor recursion depth mismatch")
        tree: ast.Module = parse(*arguments, **keywords)
        return tree

    monkeypatch.setattr(ast, "parse", disturbed_at_first)
    target = Target("sglang.engine", "guarded", ("x",))
    if disturbed == 1:
        assert drift(package, target) is None
    else:
        with pytest.raises(SystemError):
            drift(package, target)


def test_signature_only_ignores_the_body(package: Path, tmp_path: Path) -> None:
    root = changed(tmp_path, "batch + 1", "batch + 2")
    assert drift(root, recorded(package), signature_only=True) is None


def test_a_line_names_only_targets_of_the_one_it_is_compared_with() -> None:
    with pytest.raises(ValueError, match=r"not targets of SGLang 0.5.23: .'managers.nobody.f'"):
        on_another_line(lines.NEWEST, {"managers.nobody.f": "0" * 12})


def test_a_build_with_patches_of_a_framework_is_known(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a version there are two looks; a third is refused, and told apart from the one that it resembles most."""
    theirs = changed(tmp_path, "batch + 1", "batch + 2")
    stock, built = recorded(package), recorded(theirs)
    guarded = Target("sglang.engine", "guarded", ("x",))
    bare = PatchSet("1.0", "1_0", (), (stock, guarded))
    monkeypatch.setattr(lines, "SUPPORTED", {"1.0": bare})
    assert lines.refusal_reasons(package, "1.0") == []
    assert len(lines.refusal_reasons(theirs, "1.0")) == 1
    known = replace(bare, builds={"theirs": {"sglang.engine.Engine.step": str(built.fingerprint)}})
    monkeypatch.setattr(lines, "SUPPORTED", {"1.0": known})
    assert lines.refusal_reasons(package, "1.0") == lines.refusal_reasons(theirs, "1.0") == []
    third = tmp_path / "third" / "sglang"
    shutil.copytree(theirs, third)
    (third / "engine.py").write_text((theirs / "engine.py").read_text().replace("guarded", "kept"))
    (reason,) = lines.refusal_reasons(third, "1.0")
    assert "'guarded' is gone" in reason
    with pytest.raises(ValueError, match=r"not targets of SGLang 1.0: .'nobody.f'"):
        replace(bare, builds={"typo": {"nobody.f": "0" * 12}}).targets_of("typo")


def test_ledger_is_complete() -> None:
    for patch_set in lines.SUPPORTED.values():
        for patch in patch_set.patches:
            assert patch.why and patch.until, patch.target.path
            assert patch.target.fingerprint is not None, patch.target.path
            assert callable(lines._hook(patch)), patch.hook
        looks = (patch_set.targets, *map(patch_set.targets_of, patch_set.builds))
        for target in chain.from_iterable(looks):
            assert target.fingerprint is None or re.fullmatch("[0-9a-f]{12}", target.fingerprint), target.path


@pytest.fixture
def drifted_sglang(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH whose `sglang` is the installed one with `Scheduler.flush_cache` renamed."""
    folder = tmp_path / "site"
    shutil.copytree(lines.package_root(), folder / "sglang", ignore=shutil.ignore_patterns("*.pyc", "__pycache__"))
    scheduler = folder / "sglang" / "srt" / "managers" / "scheduler.py"
    text = scheduler.read_text()
    assert "    def flush_cache(" in text
    scheduler.write_text(text.replace("    def flush_cache(", "    def flush_caches("))
    return folder


def launch(path: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start the real launcher; a refusal comes before any model is read, so none is needed."""
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", "/nonexistent/model", *flags]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SGLANG_SEER")}
    given = {"PYTHONPATH": str(path), **shared_environment(), **environment}
    said = path / "said.txt"
    with said.open("wb") as log:
        process = start(command, folder=path, environment={**inherited, **given}, log=log)
    try:
        status = process.wait(240)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command, status, stderr=said.read_text())


def test_a_renamed_target_stops_the_launcher_with_every_reason(drifted_sglang: Path) -> None:
    for flags, environment in ((("--scheduler-policy", "seer"), {}), ((), {"SGLANG_SEER": "on"})):
        done = launch(drifted_sglang, *flags, **environment)
        assert done.returncode == 2, done.stderr[-2000:]
        assert "sglang-seer refuses to start" in done.stderr
        assert "Scheduler.flush_cache: 'flush_cache' is gone" in done.stderr
        assert "Traceback" not in done.stderr


def test_bad_options_stop_the_launcher(tmp_path: Path) -> None:
    config = tmp_path / "seer.json"
    config.write_text('{"draft_nodse": 8}')
    for flags, message in (
        (("--scheduler-policy", "seer", "--seer-config", str(config)), "draft_nodse"),
        (("--seer-config", "{}"), "a seer config was given but the schedule policy is 'fcfs'"),
    ):
        done = launch(tmp_path, *flags)
        assert done.returncode == 2, done.stderr[-2000:]
        assert message in done.stderr
        assert "Traceback" not in done.stderr
