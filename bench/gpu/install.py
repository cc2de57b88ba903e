#!/usr/bin/env python3
"""Installs a pack of `bench.gpu.pack` on a host without a network. Needs Python and pip (or uv) alone.

    python3 install.py --target DIR

It lies beside manifest.json and the parts, joins them, compares every checksum, and installs into DIR; nothing else of
the host is touched. Then `PYTHONPATH=DIR python3 -m sglang_seer bench gpu` runs the suite.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1
_PIECE_BYTES = 1 << 20
CHECK = "import sglang, sglang_seer, sglang.srt.server_args; print('sglang', sglang.__version__, 'imports')"


class PackError(RuntimeError):
    """The pack cannot be installed here; the text says what is missing or other than it should be."""


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in _pieces(file):
            digest.update(piece)
    return digest.hexdigest()


def part_reasons(folder: Path, parts: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with the parts in the folder; parts as the manifest lists them."""
    reasons = []
    for part in parts:
        path = folder / part["name"]
        if not path.is_file():
            reasons.append(f"{part['name']} is missing")
        elif (size := path.stat().st_size) != part["bytes"]:
            reasons.append(f"{part['name']} has {size} bytes, wanted {part['bytes']}")
        elif (seen := sha256(path)) != part["sha256"]:
            reasons.append(f"{part['name']} has the checksum {seen[:12]}..., wanted {part['sha256'][:12]}...")
    return reasons


def join(folder: Path, parts: Sequence[dict[str, Any]], archive: Path) -> None:
    """All parts, one after the other. Raises PackError with every part that is missing or damaged."""
    if reasons := part_reasons(folder, parts):
        raise PackError("; ".join(reasons))
    with archive.open("wb") as out:
        for part in parts:
            with (folder / part["name"]).open("rb") as file:
                shutil.copyfileobj(file, out, _PIECE_BYTES)


def host_reasons(manifest: dict[str, Any], version_of: Callable[[str], str | None]) -> tuple[list[str], list[str]]:
    """What keeps the pack from this host, and what is only other than when it was packed."""
    wrong, other = [], []
    python = ".".join(map(str, sys.version_info[:2]))
    if python != manifest["python"]:
        wrong.append(f"this is Python {python}, the pack is for {manifest['python']}")
    for name, packed_for in manifest["have"].items():
        seen = version_of(name)
        if seen is None:
            # A list of all that a host has names more than anything here needs.
            if name in manifest["needed"]:
                wrong.append(f"{name} is not installed; the pack counts on the host's")
        elif packed_for is not None and seen != packed_for:
            other.append(f"{name} is {seen}, the pack was made for {packed_for}")
    return wrong, other


def installed_version(name: str) -> str | None:
    """Of a distribution of this Python."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises PackError where there is none or one of another kind."""
    try:
        found: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise PackError(f"{folder / MANIFEST}: {error}") from error
    if found.get("version") != MANIFEST_VERSION:
        raise PackError(f"{MANIFEST}: version {found.get('version')!r}, wanted {MANIFEST_VERSION}")
    return found


def install(folder: Path, target: Path) -> list[str]:
    """Everything into `target`; returns what a user should know. Raises PackError."""
    manifest = read_manifest(folder)
    wrong, notes = host_reasons(manifest, installed_version)
    if wrong:
        raise PackError("; ".join(wrong))
    with tempfile.TemporaryDirectory(prefix="seer-pack-") as place:
        work = Path(place)
        join(folder, manifest["parts"], work / "pack.tar.xz")
        with tarfile.open(work / "pack.tar.xz", "r:xz") as archive:
            archive.extractall(work, filter="data")
        (work / "pack.tar.xz").unlink()
        wheels = [work / "wheels" / wheel["name"] for wheel in manifest["wheels"]]
        for path, wheel in zip(wheels, manifest["wheels"], strict=True):
            if sha256(path) != wheel["sha256"]:
                raise PackError(f"{path.name} is not the wheel that was packed")
        command = [*installer(), "--quiet", "--no-index", "--no-deps", "--upgrade"]
        command += ["--find-links", str(work / "wheels"), "--target", str(target), *map(str, wheels)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise PackError(f"{' '.join(command[:4])} ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
        shutil.copytree(work / "tree", target, dirs_exist_ok=True)
    return [*notes, *manifest["conflicts"]]


def installer() -> list[str]:
    """pip of this Python, or uv where it has none. Raises PackError without either."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--no-compile"]
    beside = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    if uv := shutil.which("uv", path=beside):
        return [uv, "pip", "install", "--python", sys.executable]
    raise PackError(f"{sys.executable} has no pip, and uv is not on PATH")


def check(target: Path) -> str:
    """What an import of SGLang from `target` says. Raises PackError where it fails."""
    path = os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=target, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise PackError(f"SGLang is installed and cannot be imported:\n{done.stderr.strip()[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def _pieces(file: Any) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece


def main(argv: Sequence[str]) -> int:
    """0 when installed and importable, 2 with the reason where not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, required=True, help="folder to install into")
    here = Path(__file__).resolve().parent
    parser.add_argument("--parts", type=Path, default=here, help="where manifest.json and the parts lie (default here)")
    parser.add_argument("--no-check", action="store_true", help="do not try to import SGLang")
    options = parser.parse_args(argv)
    target = options.target.absolute()
    try:
        for note in install(options.parts, target):
            print(f"install: note: {note}", file=sys.stderr)
        said = "not checked" if options.no_check else check(target)
    except PackError as error:
        print(f"install: {error}", file=sys.stderr)
        return 2
    print(f"installed into {target}: {said}")
    print(f"now: PYTHONPATH={target} {sys.executable} -m sglang_seer bench gpu --json-folder results")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
