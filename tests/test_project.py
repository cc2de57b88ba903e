"""Rules of the tree as a whole: who imports whom, what a wheel holds, how long a file is."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PURE = ("context", "schedule", "draft", "verify", "sim", "observe")
HTTP = {"aiohttp", "fastapi", "http", "httpx", "requests", "socketserver", "urllib.request", "uvicorn"}
ENGINE_SIDE = {f"sglang_seer.{room}" for room in ("engine", "integrations", "kernels", "patches", "plugin", "rollout")}
FRAMEWORKS = {"verl", "slime"}
MOST_LINES = 500


def imported_modules(source: str, package: str) -> set[str]:
    """Dotted names a source imports, at any depth; relative ones are resolved against `package`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            parents = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def violations(room: str, source: str) -> list[str]:
    """What a source of a room imports although architecture keeps it from it; room "" is the package itself."""
    banned = set(FRAMEWORKS) if room != "integrations" else set()
    if room not in ("engine", "patches"):
        banned.add("sglang")
    if room != "kernels":
        banned.add("triton")
    if room in PURE:
        banned |= HTTP | ENGINE_SIDE
    package = "sglang_seer" + (f".{room}" if room else "")
    return sorted(
        f"{room or 'package'} imports {name}"
        for name in imported_modules(source, package)
        if any(name == one or name.startswith(one + ".") for one in banned)
    )


def room_of(path: Path, repository: Path) -> str:
    parts = path.relative_to(repository).parts
    if parts[0] in ("kernels", "patches"):
        return parts[0]
    return parts[1] if len(parts) > 2 else ""


def python_sources(repository: Path) -> list[Path]:
    # The links in the package are skipped: their files are read where they are.
    linked = {repository / "sglang_seer" / name for name in ("kernels", "patches")}
    found = [path for folder in ("sglang_seer", "kernels", "patches") for path in (repository / folder).rglob("*.py")]
    return [path for path in found if not linked & set(path.parents)]


def kept_files(repository: Path) -> list[Path]:
    """Files that git knows or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [repository / line for line in listing.stdout.splitlines()]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def test_who_imports_whom(repository: Path) -> None:
    sources = python_sources(repository)
    assert len(sources) > 5
    found = [
        f"{path.relative_to(repository)}: {line}"
        for path in sources
        for line in violations(room_of(path, repository), path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("schedule", "import sglang.srt.managers"),
        ("draft", "def late():\n    from triton import language"),
        ("sim", "import urllib.request"),
        ("verify", "from ..kernels import verify"),
        ("rollout", "from sglang.srt import server_args"),
        ("engine", "import triton"),
        ("engine", "import verl"),
        ("", "import sglang"),
    ],
)
def test_a_violation_is_seen(room: str, source: str) -> None:
    assert len(violations(room, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("engine", "from sglang.srt.managers import scheduler"),
        ("kernels", "import triton.language as tl"),
        ("integrations", "import verl"),
        ("rollout", "import aiohttp"),
        ("schedule", "from . import order\nimport sglang_seer.context.groups"),
    ],
)
def test_what_is_allowed_is_not_reported(room: str, source: str) -> None:
    assert violations(room, source) == []


def test_kernels_of_others_stay_reachable_from_the_root(repository: Path) -> None:
    """SGLang needs a library named kernels; ours must not hide it where SGLang is started from the root."""
    code = "import kernels, sglang_seer.kernels as ours; print(kernels.__file__); print(*ours.__path__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    theirs, ours = done.stdout.splitlines()
    assert "site-packages" in theirs
    assert Path(ours).resolve() == repository / "kernels"


def test_an_init_file_would_hide_them(repository: Path, tmp_path: Path) -> None:
    """Negative control of the test above: this is why kernels/ holds no __init__.py."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    code = "import kernels; print(kernels.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == str(tmp_path / "kernels" / "__init__.py")
    assert not [name for name in ("kernels", "patches") if (repository / name / "__init__.py").exists()]


def test_files_are_short(repository: Path) -> None:
    written = [
        path for path in kept_files(repository) if path.suffix in {".py", ".cc", ".h", ".sh"} or path.name == "run"
    ]
    lengths = {str(path.relative_to(repository)): len(path.read_text().splitlines()) for path in written}
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|Users|root|work)/\w")


def test_no_file_names_one_machine(repository: Path) -> None:
    found = []
    for path in kept_files(repository):
        if path.suffix in {".png", ".safetensors", ".zst"}:
            continue
        found += [
            str(path.relative_to(repository)) for line in path.read_text().splitlines() if MACHINE_PATH.search(line)
        ]
    assert found == []
    assert MACHINE_PATH.search("see " + "/".join(["", "home", "someone", "notes"]))


def test_the_lock_file_names_no_host_and_no_path(repository: Path) -> None:
    lines = (repository / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9-]+==[\w.+!]+( ; .+)?", line)] == []
    assert "sglang==0.5.23" in pins
