"""Change a module right after it was imported, before anyone copies names from it.

SGLang 0.5.13 and newer activate a platform while their lowest modules are still
loading, so the modules with kernels do not exist yet. ``from x import f`` copies
``f``: a patch made later misses the copies, a patch made at the end of x's own
import does not. 0.5.12 activates late; there the copies are found and replaced.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

Hook = Callable[[ModuleType], None]


class PatchTargetError(RuntimeError):
    """A name that a patch replaces is not where it was expected."""


class _HookedLoader(importlib.abc.Loader):
    """Run the module as usual, then its hooks."""

    def __init__(self, loader: importlib.abc.Loader, hooks: Sequence[Hook]) -> None:
        self._loader = loader
        self._hooks = hooks

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        for hook in self._hooks:
            hook(module)

    def __getattr__(self, name: str) -> Any:
        # inspect and linecache ask the loader for sources.
        return getattr(self._loader, name)


class _HookFinder(importlib.abc.MetaPathFinder):
    """First finder on the path; finds only modules somebody wants to change."""

    def __init__(self) -> None:
        self.hooks: dict[str, list[Hook]] = {}
        # Hooks of modules that were half loaded when their hook was planted.
        self.pending: list[tuple[str, Hook]] = []

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        hooks = self.hooks.get(fullname)
        if not hooks:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _HookedLoader(spec.loader, hooks)
        return spec


_finder = _HookFinder()


def after_import(module_name: str, hook: Hook) -> None:
    """Call ``hook(module)`` as soon as ``module_name`` is imported."""
    module = sys.modules.get(module_name)
    if module is None:
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
        _finder.hooks.setdefault(module_name, []).append(hook)
    elif getattr(module.__spec__, "_initializing", False):
        _finder.pending.append((module_name, hook))
    else:
        hook(module)


def run_pending_hooks() -> None:
    """Run the hooks of modules that were half loaded; SGLang is imported by now."""
    pending, _finder.pending = _finder.pending, []
    for module_name, hook in pending:
        hook(sys.modules[module_name])


def replace(owner: Any, name: str, new: Any) -> Any:
    """Set ``owner.name``, and the copies SGLang's modules made of it; return the old.

    Raises:
        PatchTargetError: the owner has no such name.
    """
    if not hasattr(owner, name):
        owner_name = getattr(owner, "__name__", repr(owner))
        raise PatchTargetError(f"{owner_name} has no {name!r}; this SGLang is not one the CPU platform knows")
    old = getattr(owner, name)
    setattr(owner, name, new)
    if isinstance(owner, ModuleType) and old is not None:
        for module_name, module in list(sys.modules.items()):
            if module_name.startswith("sglang.") and vars(module).get(name) is old:
                setattr(module, name, new)
    return old


def hide(module_name: str) -> None:
    """Make ``module_name`` look absent to ``import`` and to ``find_spec``."""
    sys.modules.setdefault(module_name, None)  # type: ignore[arg-type]
