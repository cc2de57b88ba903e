"""What is in the sdist and in the wheel."""

from __future__ import annotations

import email
import re
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import sglang_seer
from tests.release.conftest import Built
from tests.test_project import python_sources

STRANGERS = {"kernels", "patches", "tests", "examples", "bench", "docs", "csrc", "build"}


@pytest.fixture(scope="module")
def names(built: Built) -> set[str]:
    with zipfile.ZipFile(built.wheel) as archive:
        return set(archive.namelist())


def read(wheel: Path, ending: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(ending))
        return archive.read(name).decode()


def metadata_of(wheel: Path) -> Message:
    return email.message_from_string(read(wheel, ".dist-info/METADATA"))


def test_the_wheel_holds_every_module(names: set[str], repository: Path) -> None:
    modules = {
        "/".join(["sglang_seer", *path.relative_to(repository).parts]).replace("sglang_seer/sglang_seer", "sglang_seer")
        for path in python_sources(repository)
    }
    assert modules - names == set()
    assert len([name for name in names if re.fullmatch(r"sglang_seer/draft/_index\..*\.so", name)]) == 1


def test_the_wheel_holds_types_and_license_and_nothing_else(names: set[str]) -> None:
    assert {"sglang_seer/py.typed", "sglang_seer/draft/_index.pyi"} <= names
    assert [name for name in names if re.fullmatch(r"sglang_seer-.*\.dist-info/licenses/LICENSE", name)]
    assert [name for name in names if name.split("/")[0] in STRANGERS] == []
    kinds = {Path(name).suffix for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert kinds == {".py", ".pyi", ".typed", ".so"}


def test_the_metadata_is_complete(built: Built, repository: Path) -> None:
    metadata = metadata_of(built.wheel)
    assert metadata["Name"] == "sglang-seer"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Summary"] and metadata["Keywords"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert (repository / "README.md").read_text().splitlines()[0] in metadata.get_payload()
    assert "sglang<=0.5.23,>=0.5.12" in metadata.get_all("Requires-Dist", [])
    assert {"report", "redis"} == set(metadata.get_all("Provides-Extra", []))
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert "seer = sglang_seer.plugin:load" in read(built.wheel, "entry_points.txt")


def test_one_version_everywhere(built: Built) -> None:
    assert metadata_of(built.wheel)["Version"] == sglang_seer.__version__
    assert built.sdist.name == f"sglang_seer-{sglang_seer.__version__}.tar.gz"


def versions_of(changelog: str) -> list[tuple[str, str]]:
    """Heads of a changelog: version and date, of what is not released `Unreleased` and nothing."""
    return re.findall(r"^## \[(Unreleased|\d+\.\d+\.\d+)\](?: - (\d{4}-\d\d-\d\d))?$", changelog, re.MULTILINE)


def test_the_changelog_leads_to_this_version(repository: Path) -> None:
    """In the shape of Keep a Changelog: releases have a date, what is to come stands above them."""
    changelog = (repository / "CHANGELOG.md").read_text()
    heads = versions_of(changelog)
    assert len(heads) == len(re.findall(r"^## ", changelog, re.MULTILINE))
    assert all((version == "Unreleased") == (not date) for version, date in heads)
    assert [version for version, _ in heads if version != "Unreleased"][:1] in ([], [sglang_seer.__version__])
    kinds = set(re.findall(r"^### (.+)$", changelog, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert versions_of("## [0.2.0] - soon\n## [1.0.0] - 2026-01-02\n") == [("1.0.0", "2026-01-02")]


def test_the_sdist_builds_elsewhere(built: Built) -> None:
    """That the wheel came from it shows that it is enough; here, that it holds no more than it needs."""
    with tarfile.open(built.sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md", "sglang_seer/py.typed"} <= files
    assert {"csrc/bindings.cc", "csrc/suffix_index.h", "sglang_seer/kernels/verify.py"} <= files
    assert [
        name for name in files if name.split("/")[0] in ("tests", "bench", "examples", "docs", "cpu_platform")
    ] == []
    assert [name for name in files if name.endswith((".so", ".json", ".png", ".safetensors"))] == []
