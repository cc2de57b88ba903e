"""Supported SGLang lines, the contract check of the installed one, and installation through SGLang's HookRegistry."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sglang_seer.patches.contract import Target, drift
from sglang_seer.patches.ledger import Patch, PatchSet
from sglang_seer.patches.sglang_0_5_12 import PATCH_SET as _SGLANG_0_5_12
from sglang_seer.patches.sglang_0_5_15 import PATCH_SET as _SGLANG_0_5_15
from sglang_seer.patches.sglang_0_5_23 import PATCH_SET as _SGLANG_0_5_23

SUPPORTED: dict[str, PatchSet] = {
    patch_set.version: patch_set for patch_set in (_SGLANG_0_5_23, _SGLANG_0_5_15, _SGLANG_0_5_12)
}
NEWEST = _SGLANG_0_5_23
ALLOW_UNTESTED_ENV = "SGLANG_SEER_ALLOW_UNTESTED"


def installed_version() -> str | None:
    """Version of the installed sglang distribution."""
    try:
        return version("sglang")
    except PackageNotFoundError:
        return None


def package_root() -> Path:
    """Folder of the `sglang` package of this interpreter, found without importing it."""
    spec = importlib.util.find_spec("sglang")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("sglang is not installed: pip install sglang")
    return Path(next(iter(spec.submodule_search_locations)))


def refusal_reasons(root: Path, seen_version: str | None) -> list[str]:
    """Why Seer cannot run on the SGLang under `root`; empty if it can."""
    patch_set = SUPPORTED.get(seen_version or "")
    untested = patch_set is None and os.environ.get(ALLOW_UNTESTED_ENV) == "1"
    reasons: list[str] = []
    if patch_set is None:
        if not untested:
            reasons.append(
                f"SGLang {seen_version} is not supported; supported: {', '.join(SUPPORTED)} "
                f"({ALLOW_UNTESTED_ENV}=1 tries the newest patch set and checks signatures only)"
            )
        patch_set = NEWEST
    looks = (patch_set.targets, *map(patch_set.targets_of, patch_set.builds))
    # One build is meant: of several, the one that it resembles most is spoken of.
    return reasons + min((_drifts(root, targets, signature_only=untested) for targets in looks), key=len)


def _drifts(root: Path, targets: Iterable[Target], *, signature_only: bool) -> list[str]:
    found = (drift(root, target, signature_only=signature_only) for target in targets)
    return [reason for reason in found if reason is not None]


def patch_set_for(seen_version: str | None) -> PatchSet:
    """The patch set of a version, the newest one for versions that are tried at the user's own risk."""
    return SUPPORTED.get(seen_version or "", NEWEST)


def _hook(patch: Patch) -> object:
    module, name = patch.hook.split(":")
    return getattr(importlib.import_module(f"sglang_seer.engine.{module}"), name)


def install(patch_set: PatchSet) -> None:
    """Register every hook; SGLang applies them when all plugins are loaded."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    for patch in patch_set.patches:
        if patch.kind == "assign":
            _hook(patch)()  # type: ignore[operator]
        else:
            HookRegistry.register(patch.target.path, _hook(patch), HookType(patch.kind))


def _is_wrapped_by(function: object, hook: object) -> bool:
    """Whether a hook sits in the chain of wrappers that SGLang's HookRegistry put around a function."""
    while function is not None:
        cells = getattr(function, "__closure__", None) or ()
        if any(cell.cell_contents is hook for cell in cells):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def unapplied(patch_set: PatchSet) -> list[str]:
    """Hooks that are not in force in this process: SGLang's loader logs such errors and goes on.

    That SGLang lists a target as patched proves nothing: another plugin may have patched it first.
    """
    return [
        f"{patch.target.path}: the hook is registered but not applied in this process"
        for patch in patch_set.patches
        if patch.kind != "assign" and not _is_wrapped_by(pkgutil.resolve_name(patch.target.path), _hook(patch))
    ]
