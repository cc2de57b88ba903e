"""What Seer relies on in SGLang's source, checked without importing it.

A target is compared by existence, parameter names and a fingerprint of its source. So a renamed, re-signed or changed
target is seen before anything is patched, in a running process as well as in an unpacked wheel.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """A function, method or class of SGLang.

    module: dotted, starting with `sglang`. name: `function`, `Class` or `Class.method`.
    parameters: names in order, None for classes and module attributes that are no functions.
    fingerprint: of the source without comments and docstrings; None where only the signature matters.
    """

    module: str
    name: str
    parameters: tuple[str, ...] | None = None
    fingerprint: str | None = None

    @property
    def path(self) -> str:
        """Dotted path."""
        return f"{self.module}.{self.name}"


@lru_cache(maxsize=64)
def _parse(path: Path) -> ast.Module:
    source = path.read_text(encoding="utf-8")
    try:
        return ast.parse(source, filename=str(path))
    except SystemError:
        # Python 3.11 takes it for a fault of its own where something else is parsed meanwhile: by another thread, or by
        # the garbage collector, when a task dies whose error is printed (traceback looks for the place in the line).
        return ast.parse(source, filename=str(path))


def _module_file(package_root: Path, module: str) -> Path | None:
    relative = Path(*module.split(".")[1:])
    for candidate in (package_root / relative.with_suffix(".py"), package_root / relative / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _find(scope: ast.AST, name: str) -> ast.AST | None:
    """First definition of `name` in a module or class, also below `if`, `try` and `with`."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name == name:
                return node
        elif isinstance(node, ast.If | ast.Try | ast.With) and (inner := _find(node, name)) is not None:
            return inner
    return None


def _without_docstrings(node: ast.AST) -> ast.AST:
    for child in ast.walk(node):
        body = getattr(child, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                child.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    return node


def parameters_of(node: ast.AST) -> tuple[str, ...] | None:
    """Parameter names of a function, `*name` and `**name` included; None for a class."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    arguments = node.args
    names = [argument.arg for argument in arguments.posonlyargs + arguments.args]
    if arguments.vararg:
        names.append("*" + arguments.vararg.arg)
    names += [argument.arg for argument in arguments.kwonlyargs]
    if arguments.kwarg:
        names.append("**" + arguments.kwarg.arg)
    return tuple(names)


def locate(package_root: Path, target: Target) -> ast.AST | str:
    """The definition of a target, or the reason why there is none."""
    file = _module_file(package_root, target.module)
    if file is None:
        return f"{target.path}: module {target.module} is gone"
    node: ast.AST = _parse(file)
    for part in target.name.split("."):
        inner = _find(node, part)
        if inner is None:
            return f"{target.path}: {part!r} is gone from {target.module}"
        node = inner
    return node


def fingerprint_of(node: ast.AST) -> str:
    """12 hex digits over the normalised source: blind to comments, docstrings and formatting."""
    copied = ast.parse(ast.unparse(node))
    return hashlib.sha256(ast.dump(_without_docstrings(copied)).encode()).hexdigest()[:12]


def drift(package_root: Path, target: Target, *, signature_only: bool = False) -> str | None:
    """Why a target is not the one Seer was written for; None if it is."""
    node = locate(package_root, target)
    if isinstance(node, str):
        return node
    if target.parameters is not None and (seen := parameters_of(node)) != target.parameters:
        return f"{target.path}: parameters are {seen}, wanted {target.parameters}"
    if target.fingerprint is None or signature_only:
        return None
    if (seen_print := fingerprint_of(node)) != target.fingerprint:
        return f"{target.path}: source has changed (fingerprint {seen_print}, wanted {target.fingerprint})"
    return None
