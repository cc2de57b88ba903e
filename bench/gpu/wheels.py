"""Wheels without the files that a host has no use for, and what wheels want that the host has otherwise."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from email.parser import Parser
from fnmatch import fnmatchcase
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename


def project_of(wheel: Path) -> str:
    """The normalised name of its project. Raises ValueError for a name that is no wheel's."""
    return parse_wheel_filename(wheel.name)[0]


def requirements_of(wheel: Path, python: str) -> list[Requirement]:
    """What it needs on Linux with that Python, without extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.count("/") == 1 and one.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    environment = {
        "python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "extra": "",
        "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix", "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }  # fmt: skip
    wanted = [Requirement(line) for line in metadata.get_all("Requires-Dist") or ()]
    return [one for one in wanted if one.marker is None or one.marker.evaluate(environment)]


def conflicts(wheels: Sequence[Path], have: Mapping[str, str | None], python: str) -> dict[str, list[str]]:
    """By name, requirements of the wheels that the host's own versions do not meet.

    have: None where the version is unknown.
    """
    found: dict[str, list[str]] = {}
    for wheel in wheels:
        for wanted in requirements_of(wheel, python):
            name = canonicalize_name(wanted.name)
            seen = have.get(name)
            if seen is not None and not wanted.specifier.contains(seen, prereleases=True):
                found.setdefault(name, []).append(f"{project_of(wheel)} wants {wanted}, the host has {seen}")
    return found


def pruned(wheel: Path, folder: Path, unwanted: Sequence[str] = ()) -> tuple[Path, dict[str, int]]:
    """The wheel under its own name in `folder`, and the sizes in bytes of the files that were left out of it.

    unwanted: shell patterns of members. What stays is stored without compression: one archive of all wheels is
    compressed as a whole, and far better. Raises ValueError for a pattern that no member matches, so that a new version
    with other names does not quietly come whole, and for a wheel without a RECORD.
    """
    target = folder / wheel.name
    with zipfile.ZipFile(wheel) as source:
        members = source.infolist()
        records = [one.filename for one in members if one.filename.endswith(".dist-info/RECORD")]
        if len(records) != 1:
            raise ValueError(f"{wheel.name}: wanted one .dist-info/RECORD, saw {len(records)}")
        for pattern in unwanted:
            if not any(fnmatchcase(one.filename, pattern) for one in members):
                raise ValueError(f"{wheel.name}: wanted a file like {pattern!r} to leave out, saw none")
        left = {
            one.filename: one.file_size
            for one in members
            if any(fnmatchcase(one.filename, pattern) for pattern in unwanted)
        }
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as made:
            for member in members:
                if member.filename in left:
                    continue
                content = source.read(member)
                if member.filename == records[0]:
                    content = _record_without(content, left)
                # The permissions and the time of the original.
                member.compress_type = zipfile.ZIP_STORED
                made.writestr(member, content)
    return target, left


def _record_without(record: bytes, left: Mapping[str, int]) -> bytes:
    lines = list(csv.reader(io.StringIO(record.decode(), newline="")))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(line for line in lines if line and line[0] not in left)
    return text.getvalue().encode()
