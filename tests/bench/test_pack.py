"""Packs for hosts without a network: pruned wheels, parts, the manifest, and the installer that travels with them."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import install, pack, resolve
from bench.gpu.install import PackError
from bench.gpu.parts import split, write_archive
from bench.gpu.wheels import conflicts, project_of, pruned

PYTHON = ".".join(map(str, sys.version_info[:2]))


def line_of(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def wheel(folder: Path, name: str, files: dict[str, bytes], requires: tuple[str, ...] = ()) -> Path:
    """A made-up one; `name` as in wheels' names, with the version."""
    info = f"{name}.dist-info"
    project, version = name.split("-")
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    files = {
        **files,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for member, content in files.items():
            entry = zipfile.ZipInfo(member)
            entry.external_attr = 0o755 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            made.writestr(entry, content)
        record = "".join(line_of(member, content) for member, content in files.items())
        made.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return path


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    files = {"big_kernels/__init__.py": b"VALUE = 7\n", "big_kernels/large.so": b"x" * 5000, "big_kernels/a.so": b"y"}
    return wheel(tmp_path, "big_kernels-1.2", files, ("numpy<2; python_version > '3'", "extra-thing; extra == 'more'"))


def test_a_pruned_wheel_is_a_wheel(kernels: Path, tmp_path: Path) -> None:
    """Its RECORD lists what it holds, with the right checksums, and nothing else."""
    (tmp_path / "out").mkdir()
    made, left = pruned(kernels, tmp_path / "out", ["big_kernels/large*"])
    assert (made.name, left, project_of(made)) == (kernels.name, {"big_kernels/large.so": 5000}, "big-kernels")
    with zipfile.ZipFile(made) as archive, zipfile.ZipFile(kernels) as before:
        names = [name for name in archive.namelist() if not name.endswith("RECORD")]
        assert set(before.namelist()) - set(archive.namelist()) == {"big_kernels/large.so"}
        record = archive.read("big_kernels-1.2.dist-info/RECORD").decode()
        assert record == "".join(line_of(name, archive.read(name)) for name in names) + (
            "big_kernels-1.2.dist-info/RECORD,,\n"
        )
        assert archive.getinfo("big_kernels/a.so").external_attr == 0o755 << 16
        assert {one.compress_type for one in archive.infolist()} == {zipfile.ZIP_STORED}


def test_what_cannot_be_pruned_is_told(kernels: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"wanted a file like 'big_kernels/other.so' to leave out, saw none"):
        pruned(kernels, tmp_path / "out", ["big_kernels/other.so"])
    with zipfile.ZipFile(tmp_path / "none-1-py3-none-any.whl", "w") as archive:
        archive.writestr("none.py", "")
    with pytest.raises(ValueError, match=r"wanted one .dist-info/RECORD, saw 0"):
        pruned(tmp_path / "none-1-py3-none-any.whl", tmp_path / "out")


def test_requirements_that_the_host_does_not_meet(kernels: Path) -> None:
    assert conflicts([kernels], {"numpy": "1.26.4", "extra-thing": "1"}, "3.12") == {}
    assert conflicts([kernels], {"numpy": "2.5.2"}, "3.12") == {
        "numpy": ['big-kernels wants numpy<2; python_version > "3", the host has 2.5.2']
    }
    # Nothing is known of it.
    assert conflicts([kernels], {"numpy": None}, "3.12") == {}


def test_another_version_is_brought_where_the_host_has_none_that_fits(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what that one wants in turn; what goes with CUDA stays the host's."""
    older = wheel(tmp_path, "numpy-1.9", {"numpy.py": b""}, ("six==1.0", "torch<2"))
    asked: list[set[str]] = []

    def lock(_wanted: list[str], dropped: list[str], _host: resolve.Host) -> list[str]:
        asked.append(set(dropped) & {"numpy", "six", "torch"})
        return []

    monkeypatch.setattr(pack, "lock", lock)
    monkeypatch.setattr(pack, "download", lambda *_: [kernels, *([older] if len(asked) > 1 else [])])
    options = pack._parse(
        ["--out", str(tmp_path), "--have", "torch==2.11.0", "--have", "numpy==2.5.2", "--have", "six==2.0"]
    )
    have, wheels = pack._fetch(options, resolve.Host(python="3.12", glibc=34), tmp_path)
    assert (have, wheels) == ({"torch": "2.11.0"}, [kernels, older])
    assert asked == [{"numpy", "six", "torch"}, {"six", "torch"}, {"torch"}]


@pytest.mark.parametrize(("size", "sizes"), [(1000, [1000]), (1001, [1000, 1]), (2500, [1000, 1000, 500])])
def test_parts_join_to_what_was_split(size: int, sizes: list[int], tmp_path: Path) -> None:
    content = bytes(number * 7 % 251 for number in range(size))
    (tmp_path / "a.xz").write_bytes(content)
    (tmp_path / "parts").mkdir()
    parts = split(tmp_path / "a.xz", tmp_path / "parts", 1000)
    assert [part["bytes"] for part in parts] == sizes
    install.join(tmp_path / "parts", parts, tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == content


def test_parts_that_are_missing_or_damaged_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "a.xz").write_bytes(bytes(3500))
    parts = split(tmp_path / "a.xz", tmp_path, 1000)
    (tmp_path / "a.xz.000").unlink()
    (tmp_path / "a.xz.001").write_bytes(b"x" * 1000)
    (tmp_path / "a.xz.003").write_bytes(b"short")
    with pytest.raises(PackError, match=r"000 is missing; .*001 has the checksum .*; .*003 has 5 bytes, wanted 500"):
        install.join(tmp_path, parts, tmp_path / "joined")


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text("a = 1\n")
        write_archive(tmp_path / f"{name}.tar.xz", [(tmp_path / f"{name}.py", "tree/a.py")])
        made.append((tmp_path / f"{name}.tar.xz").read_bytes())
    assert made[0] == made[1]


def packed(folder: Path, work: Path, brought: list[Path], **more: Any) -> Path:
    """A pack of these wheels, cut small."""
    ready = work / "ready"
    ready.mkdir()
    folder.mkdir()
    made = [pruned(one, ready)[0] for one in brought]
    (work / "note.py").write_text("b = 2\n")
    members = [(one, f"wheels/{one.name}") for one in made] + [(work / "note.py", "tree/bench/note.py")]
    write_archive(work / "pack.tar.xz", members)
    manifest = {
        "version": 1, "python": PYTHON, "have": {}, "needed": [], "conflicts": ["a wants b"],
        "wheels": [{"name": one.name, "sha256": install.sha256(one)} for one in made],
        "parts": split(work / "pack.tar.xz", folder, 300),
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest | more))
    shutil.copy(install.__file__, folder)
    return folder


def test_the_installer_alone_installs(kernels: Path, tmp_path: Path) -> None:
    """As a script of its own, with nothing of ours on the path."""
    folder, target = packed(tmp_path / "pack", tmp_path, [kernels]), tmp_path / "site"
    assert len(list(folder.glob("pack.tar.xz.*"))) > 1
    command = [sys.executable, "-I", str(folder / "install.py"), "--target", str(target), "--no-check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "note: a wants b" in done.stderr and f"PYTHONPATH={target}" in done.stdout
    assert (target / "big_kernels" / "a.so").read_bytes() == b"y"
    assert (target / "bench" / "note.py").exists()
    assert list(target.glob("big_kernels-1.2.dist-info"))


def test_what_was_installed_is_tried(kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, target = packed(tmp_path / "pack", tmp_path, [kernels]), tmp_path / "site"
    assert install.install(folder, target) == ["a wants b"]
    monkeypatch.setattr(install, "CHECK", "import big_kernels; print('value', big_kernels.VALUE)")
    assert install.check(target) == "value 7"
    monkeypatch.setattr(install, "CHECK", "import big_kernels.missing")
    with pytest.raises(PackError, match=r"cannot be imported:\n(.|\n)*big_kernels.missing"):
        install.check(target)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"python": "2.7"}, "the pack is for 2.7"),
        ({"have": {"no-such-thing": "1"}, "needed": ["no-such-thing"]}, "no-such-thing is not installed"),
        ({"version": 9}, "version 9, wanted 1"),
        ({"wheels": [{"name": "big_kernels-1.2-py3-none-any.whl", "sha256": "0"}]}, "is not the wheel that was packed"),
    ],
)
def test_a_host_that_does_not_fit(more: dict[str, Any], said: str, kernels: Path, tmp_path: Path, capsys: Any) -> None:
    folder = packed(tmp_path / "pack", tmp_path, [kernels], **more)
    assert install.main(["--target", str(tmp_path / "site"), "--parts", str(folder), "--no-check"]) == 2
    assert said in capsys.readouterr().err


def test_other_versions_of_the_host_are_notes() -> None:
    manifest = {
        "python": PYTHON, "have": {"torch": "2.11.0", "jax": "1", "numpy": None}, "needed": ["torch", "numpy"],
    }  # fmt: skip
    seen = {"torch": "2.11.1", "numpy": "2.5"}
    assert install.host_reasons(manifest, seen.get) == ([], ["torch is 2.11.1, the pack was made for 2.11.0"])
    # Of all that the host had, only what is needed has to be there still.
    assert install.host_reasons(manifest, {"torch": "2.11.0"}.get)[0] == [
        "numpy is not installed; the pack counts on the host's"
    ]


def test_what_the_host_has() -> None:
    lines = ["torch==2.11.0", "", "# note", "-e /somewhere", "Typing_Extensions==4.1", "own @ file:///x", "pip>=2"]
    assert pack.had(lines) == {"torch": "2.11.0", "typing-extensions": "4.1", "own": None, "pip": None}
    with pytest.raises(ValueError, match="saw '==1'"):
        pack.had(["==1"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--have", "numpy==2.0"], "wanted torch among them"),
        (["--have", "torch==2.11.0", "--bring", "torch==2.12.0"], "wanted torch among them"),
        (["--have", "torch==2.11.0", "--part-bytes", "0"], "--part-bytes: wanted at least 1, saw 0"),
        (["--have", "torch==2.11.0", "--have-file", "no-such-file"], "no-such-file"),
    ],
)
def test_bad_arguments(argv: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        pack.main(["--out", str(tmp_path), *argv])
    assert said in capsys.readouterr().err


def test_wheels_of_other_pins_are_told_apart() -> None:
    wheels = [Path(f"Big_Kernels-{version}-py3-none-any.whl") for version in ("1.2", "1.3.post1")]
    assert [resolve.is_pinned(one, ["a==1.2", "big-kernels==1.3.post1"]) for one in wheels] == [False, True]


def test_what_is_resolved(repository: Path) -> None:
    wanted = resolve.requirements("0.5.15.post1", ["transformers==5.12.1"], repository)
    assert wanted[0] == "sglang==0.5.15.post1" and wanted[-1] == "transformers==5.12.1"
    assert {"aiohttp", "msgspec", "psutil"} <= set(wanted)
    assert len([one for one in wanted if one.startswith("sglang")]) == 1
    platforms = resolve.Host(python="3.12", glibc=34).pip_platforms
    assert "manylinux_2_34_x86_64" in platforms and "manylinux_2_35_x86_64" not in platforms
