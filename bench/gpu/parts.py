"""One archive in parts that a narrow way carries, and the list of what is in them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.gpu.install import sha256

PART_BYTES = 60 * 10**6


def write_archive(archive: Path, members: Iterable[tuple[Path, str]]) -> None:
    """A .tar.xz of files under the names they get; the same files make the same archive."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(archive, "w:xz", preset=6) as out:
        for path, name in sorted(members, key=lambda one: one[1]):
            out.add(path, name, recursive=False, filter=plain)


def split(archive: Path, folder: Path, part_bytes: int = PART_BYTES) -> list[dict[str, Any]]:
    """Cuts a file into `folder`/NAME.000 and so on, and returns what the manifest says of each.

    Raises ValueError for a size below one byte.
    """
    if part_bytes < 1:
        raise ValueError(f"part: wanted at least 1 byte, saw {part_bytes}")
    parts: list[dict[str, Any]] = []
    with archive.open("rb") as file:
        while content := file.read(part_bytes):
            path = folder / f"{archive.name}.{len(parts):03d}"
            path.write_bytes(content)
            parts.append({"name": path.name, "bytes": len(content), "sha256": sha256(path)})
    return parts
