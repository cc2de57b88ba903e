"""What the platform does before an engine exists."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import sglang_seer_cpu
from sglang_seer_cpu import cuda_stub, environment, import_hooks, kernels


def test_it_never_takes_over_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang tries every installed platform when SGLANG_PLATFORM names none."""
    monkeypatch.delenv("SGLANG_PLATFORM", raising=False)
    assert sglang_seer_cpu.activate() is None


@pytest.mark.parametrize(
    ("read", "name", "bad"),
    [
        (environment.num_threads, environment.THREADS_ENV, "0"),
        (environment.num_threads, environment.THREADS_ENV, "many"),
        (environment.start_method, environment.START_ENV, "forkserver"),
        (kernels.kernel_choice, kernels.KERNELS_ENV, "triton"),
    ],
)
def test_bad_settings_are_refused(monkeypatch: pytest.MonkeyPatch, read: object, name: str, bad: str) -> None:
    monkeypatch.setenv(name, bad)
    with pytest.raises(ValueError, match=f"{name} must be .* got '{bad}'"):
        read()  # type: ignore[operator]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with a module that copies a function from another one."""
    (tmp_path / "hooked").mkdir()
    (tmp_path / "hooked" / "__init__.py").write_text("")
    (tmp_path / "hooked" / "source.py").write_text("def f():\n    return 'old'\n")
    (tmp_path / "hooked" / "user.py").write_text("from hooked.source import f\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "hooked"
    for name in [name for name in sys.modules if name.split(".")[0] == "hooked"]:
        del sys.modules[name]
    import_hooks._finder.hooks.pop("hooked.source", None)


def test_a_hook_runs_before_names_are_copied(package: str) -> None:
    def patch(module: ModuleType) -> None:
        import_hooks.replace(module, "f", lambda: "new")

    import_hooks.after_import(f"{package}.source", patch)
    assert importlib.import_module(f"{package}.user").f() == "new"


def test_a_late_hook_finds_the_copies_in_sglang(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    user = importlib.import_module(f"{package}.user")
    source = sys.modules[f"{package}.source"]
    monkeypatch.setitem(sys.modules, "sglang.user_of_hooked", user)
    import_hooks.after_import(f"{package}.source", lambda module: import_hooks.replace(module, "f", lambda: "new"))
    assert (source.f(), user.f()) == ("new", "new")


def test_a_missing_target_is_an_error(package: str) -> None:
    source = importlib.import_module(f"{package}.source")
    with pytest.raises(import_hooks.PatchTargetError, match=r"hooked.source has no 'g'"):
        import_hooks.replace(source, "g", None)


def test_the_stand_in_driver_loads_and_needs_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = ctypes.CDLL(str(cuda_stub.build()))
    assert library.cuMemRelease() == 100
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="no gcc or cc found on the PATH"):
        cuda_stub.build()
