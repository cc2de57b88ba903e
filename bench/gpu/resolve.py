"""Which wheels a host needs, and getting them: resolved by uv and downloaded by pip, for another machine than this."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from bench.gpu.left_out import BROUGHT_NONETHELESS
from bench.rows import ROOT
from bench.tools import find_uv

# What the suite itself imports beside SGLang and what sglang-seer names.
SUITE = ("packaging", "psutil", "requests", "tokenizers")
# A marker that no machine meets: uv leaves out a project that is overridden with it, and what only that one needs.
_NEVER = "python_version < '0'"
_BUILT = ("sglang_seer", "kernels", "patches", "csrc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Whom the wheels are for. python: such as 3.12. glibc: its minor version, of 2.x."""

    python: str
    glibc: int

    @property
    def uv_platform(self) -> str:
        return f"x86_64-manylinux_2_{self.glibc}"

    @property
    def pip_platforms(self) -> list[str]:
        """All that it runs: pip compares names and does not know that an older one is good, too."""
        newer = [f"manylinux_2_{minor}_x86_64" for minor in range(5, self.glibc + 1)]
        return ["any", "linux_x86_64", "manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64", *newer]


def requirements(sglang: str, brought: Iterable[str], root: Path = ROOT) -> list[str]:
    """What is resolved: that SGLang, what pyproject.toml names, what the suite imports, and what is asked for."""
    named = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    ours = [one for one in named if not one.startswith("sglang")]
    return [f"sglang=={sglang}", *ours, *SUITE, *BROUGHT_NONETHELESS, *brought]


def lock(wanted: Sequence[str], dropped: Iterable[str], host: Host) -> list[str]:
    """Pins `name==version` of all that is to be brought. Raises ValueError where uv finds no solution."""
    with tempfile.TemporaryDirectory() as place:
        asked, overrides = Path(place) / "wanted.in", Path(place) / "dropped.txt"
        asked.write_text("\n".join(wanted) + "\n")
        overrides.write_text("".join(f"{name} ; {_NEVER}\n" for name in dropped))
        done = _uv(
            *("pip", "compile", str(asked), "--override", str(overrides), "--python-version", host.python),
            *("--python-platform", host.uv_platform, "--no-annotate", "--no-header", "--quiet"),
        )
    return [line for line in done.splitlines() if line and not line.startswith("#")]


def download(pins: Sequence[str], host: Host, folder: Path) -> list[Path]:
    """The wheels, in `folder`, where nothing else stays. Raises ValueError where one cannot be had."""
    platforms = [word for name in host.pip_platforms for word in ("--platform", name)]
    _uv(
        *("tool", "run", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)),
        *("--python-version", host.python, "--implementation", "cp", *platforms, *pins),
    )
    for path in folder.glob("*.whl"):
        # Of an earlier set of pins.
        if not is_pinned(path, pins):
            path.unlink()
    return sorted(folder.glob("*.whl"))


def is_pinned(wheel: Path, pins: Sequence[str]) -> bool:
    """Whether one of `name==version` is this wheel."""
    name, version, *_ = parse_wheel_filename(wheel.name)
    return any(
        (one := Requirement(pin)).specifier.contains(version, prereleases=True) and canonicalize_name(one.name) == name
        for pin in pins
    )


def build(host: Host, folder: Path, root: Path = ROOT) -> list[Path]:
    """Our own wheels, for that Python on a machine like this one. Raises ValueError where a build fails."""
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "tree"
        tree.mkdir()
        for path in (root / "pyproject.toml", root / "setup.py", root / "LICENSE", *root.glob("*.md")):
            shutil.copy(path, tree)
        unwanted = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info", "build")
        for name in _BUILT:
            shutil.copytree(root / name, tree / name, symlinks=True, ignore=unwanted)
        shutil.copytree(root / "cpu_platform", Path(place) / "cpu_platform", ignore=unwanted)
        for source in (tree, Path(place) / "cpu_platform"):
            _uv("build", "--quiet", "--wheel", "--python", host.python, "--out-dir", str(folder), str(source))
    return sorted(folder.glob("sglang_seer*.whl"))


def _uv(*words: str) -> str:
    uv = find_uv()
    if uv is None:
        raise ValueError("uv is not installed; it is neither on PATH nor in .venv-uv")
    done = subprocess.run([*uv, *words], capture_output=True, text=True, cwd=tempfile.gettempdir())
    if done.returncode != 0:
        raise ValueError(f"uv {' '.join(words[:3])} ended with {done.returncode}: {done.stderr.strip()[-1500:]}")
    return done.stdout
