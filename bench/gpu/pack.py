"""`python -m bench.gpu.pack --out DIR --have torch==2.11.0 ...`: all that a CUDA host without a network lacks.

For the GPU suite: SGLang, sglang-seer (built here), the benchmarks and the example's model, without what the host has
and without what Triton's attention does not need. One archive in parts of at most 60 MB, manifest.json with every
checksum, and install.py, which joins and installs them with the host's own Python and pip. It needs a network and uv
here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from bench.gpu import left_out
from bench.gpu.install import MANIFEST, MANIFEST_VERSION, sha256
from bench.gpu.parts import PART_BYTES, split, write_archive
from bench.gpu.resolve import Host, build, download, lock, requirements
from bench.gpu.wheels import conflicts, project_of, pruned, requirements_of
from bench.rows import COMMIT_FILE, ROOT, commit

# Beside the package, as in a checkout: the benchmarks and the example look for each other there.
TREE = ("bench", "examples/tiny_reasoner")
LINES = ("0.5.15.post1", "0.5.12", "0.5.23")
ARCHIVE = "pack.tar.xz"
# Whatever a wheel wants: another one would be for another CUDA.
HOST_ONLY = ("torch", "triton", "nvidia-", "cuda-")


def main(argv: Sequence[str]) -> int:
    """0 when packed, 2 for bad arguments, or where a wheel cannot be had."""
    options = _parse(argv)
    host = Host(python=options.python, glibc=options.glibc)
    try:
        with tempfile.TemporaryDirectory(prefix="seer-pack-") as place:
            manifest = pack(options, host, Path(place))
    except (ValueError, OSError) as error:
        print(f"pack: {error}", file=sys.stderr)
        return 2
    total = sum(part["bytes"] for part in manifest["parts"])
    print(f"{len(manifest['wheels'])} wheels, {len(manifest['parts'])} parts, {total / 1e6:.1f} MB in {options.out}")
    for conflict in manifest["conflicts"]:
        print(f"pack: note: {conflict}")
    print(f"on the host: python3 {options.out.name}/install.py --target DIR")
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.pack", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pack; what lies there goes")
    parser.add_argument("--python", default="3.12", help="the host's (default 3.12)")
    parser.add_argument("--glibc", type=int, default=34, help="the host's, of 2.x (default 34)")
    parser.add_argument("--sglang", choices=LINES, default=LINES[0], help=f"(default {LINES[0]}, for torch 2.11)")
    parser.add_argument("--have", action="append", default=[], help="NAME or NAME==VERSION that the host has; repeats")
    parser.add_argument(
        "--have-file", type=Path, help="such lines, as `pip list --format=freeze` on the host gives them"
    )
    parser.add_argument("--bring", action="append", default=[], help="NAME==VERSION to bring whatever the host has")
    parser.add_argument("--part-bytes", type=int, default=PART_BYTES, help=f"of a part (default {PART_BYTES})")
    options = parser.parse_args(argv)
    try:
        lines = options.have_file.read_text().splitlines() if options.have_file else []
        options.have = had([*lines, *options.have])
        brought = {canonicalize_name(Requirement(one).name) for one in options.bring}
    except (OSError, InvalidRequirement, ValueError) as error:
        parser.error(str(error))
    options.have = {name: version for name, version in options.have.items() if name not in brought}
    if "torch" not in options.have:
        parser.error("--have: wanted torch among them, with its version: a pack does not bring CUDA")
    if options.part_bytes < 1:
        parser.error(f"--part-bytes: wanted at least 1, saw {options.part_bytes}")
    return options


def had(lines: Sequence[str]) -> dict[str, str | None]:
    """Name and version of each line; None where it tells none, as of a package from a folder.

    Raises ValueError for a line that names nothing.
    """
    found: dict[str, str | None] = {}
    for line in map(str.strip, lines):
        if not line or line.startswith(("#", "-")):
            continue
        try:
            one = Requirement(line)
        except InvalidRequirement as error:
            raise ValueError(f"--have: wanted NAME or NAME==VERSION, saw {line!r}") from error
        exact = [part.version for part in one.specifier if part.operator in ("==", "===")]
        found[canonicalize_name(one.name)] = exact[0] if exact else None
    return found


def pack(options: argparse.Namespace, host: Host, work: Path) -> dict[str, Any]:
    """Resolves, downloads, prunes and writes everything; returns the manifest."""
    fetched, ready = work / "fetched", work / "wheels"
    fetched.mkdir()
    ready.mkdir()
    have, wheels = _fetch(options, host, fetched)
    wheels += build(host, fetched)
    made = []
    for wheel in wheels:
        patterns = left_out.FILES.get(project_of(wheel), {})
        target, left = pruned(wheel, ready, list(patterns))
        made.append({"name": target.name, "sha256": sha256(target), "left_out": left})
        wheel.unlink()
    packed = sorted(ready.glob("*.whl"))
    tree = _tree(work / "tree")
    _say(f"compressing {sum(path.stat().st_size for path in packed) / 1e6:.0f} MB")
    members = [(path, f"wheels/{path.name}") for path in packed]
    members += [(path, f"tree/{path.relative_to(tree)}") for path in tree.rglob("*") if path.is_file()]
    write_archive(work / ARCHIVE, members)
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    needed = {canonicalize_name(one.name) for wheel in packed for one in requirements_of(wheel, host.python)}
    manifest = {
        "version": MANIFEST_VERSION,
        "python": host.python,
        "sglang": options.sglang,
        "commit": commit(),
        "have": have,
        "needed": sorted(needed & set(have)),
        "conflicts": [text for texts in conflicts(packed, have, host.python).values() for text in texts],
        "left_out": left_out.PROJECTS,
        "wheels": made,
        "parts": split(work / ARCHIVE, options.out, options.part_bytes),
    }
    (options.out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.copy(Path(__file__).with_name("install.py"), options.out)
    return manifest


def _fetch(options: argparse.Namespace, host: Host, folder: Path) -> tuple[dict[str, str | None], list[Path]]:
    """What of the host's is used, and the wheels beside it.

    Where a wheel wants another version than the host's, one that fits is brought, which may want others again. What
    goes with CUDA stays the host's.
    """
    have = dict(options.have)
    wanted = requirements(options.sglang, options.bring)
    while True:
        pins = lock(wanted, [*have, *left_out.PROJECTS], host)
        _say(f"{len(pins)} projects")
        wheels = download(pins, host, folder)
        found = conflicts(wheels, have, host.python)
        brought = [name for name in found if not name.startswith(HOST_ONLY)]
        if not brought:
            return have, wheels
        for name in brought:
            _say(f"{name} is brought: {'; '.join(found[name])}")
            del have[name]


def _tree(folder: Path) -> Path:
    """What goes beside the package, of what git knows: results and builds stay here."""
    listing = subprocess.run(["git", "ls-files", "-z", *TREE], cwd=ROOT, capture_output=True, text=True)
    names = [name for name in listing.stdout.split("\0") if name and not name.startswith("bench/results/")]
    if listing.returncode != 0 or not names:
        raise ValueError(f"{ROOT}: wanted a git checkout, to know what belongs to it: {listing.stderr.strip()}")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / COMMIT_FILE).write_text(f"{commit()}\n")
    return folder


def _say(text: str) -> None:
    print(f"pack: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
