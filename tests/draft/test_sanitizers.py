"""The index's C++ tests and its fuzz target, under the address, undefined behaviour and thread sanitizers.

`csrc/tests/index_fuzz.cc` is a libFuzzer target; here `main.cc` feeds it seeded random bytes, so that no fuzzer is
needed. To look for more: build it with clang++ and -fsanitize=fuzzer, without `main.cc`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from setuptools._distutils.ccompiler import new_compiler
from setuptools._distutils.sysconfig import customize_compiler

FUZZ_INPUTS = 600
FLAGS = "-std=c++17 -O1 -g1 -fno-omit-frame-pointer -fno-sanitize-recover=all -pthread -ffp-contract=off"
OPTIONS = {"UBSAN_OPTIONS": "print_stacktrace=1"}


def cxx() -> str:
    """The compiler that builds the extension: of the CXX variable, else the one that Python was built with."""
    compiler = new_compiler()
    customize_compiler(compiler)
    command: list[str] = getattr(compiler, "compiler_so_cxx", None) or vars(compiler)["compiler_so"]
    found = shutil.which(command[0])
    assert found, f"{command[0]!r} is not on PATH; a C++17 compiler is needed, as for the extension itself"
    return found


def build(repository: Path, folder: Path, sanitizers: str) -> Path:
    sources = [path for path in sorted((repository / "csrc").glob("*.cc")) if path.name != "bindings.cc"]
    sources += sorted((repository / "csrc" / "tests").glob("*.cc"))
    program = folder / "index_test"
    command = [cxx(), *FLAGS.split(), f"-fsanitize={sanitizers}", f"-I{repository / 'csrc'}"]
    command += [f"-I{repository / 'csrc' / 'tests'}", *map(str, sources), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return program


def run(program: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **OPTIONS})


@pytest.fixture(scope="module")
def checked_program(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(repository, tmp_path_factory.mktemp("address"), "address,undefined")


def test_units(checked_program: Path) -> None:
    ran = run(checked_program, "unit")
    assert ran.returncode == 0, ran.stdout[-500:] + ran.stderr
    counted = re.search(r"^(\d+) tests$", ran.stdout, re.MULTILINE)
    assert counted and int(counted[1]) >= 30


def test_fuzz(checked_program: Path) -> None:
    ran = run(checked_program, "fuzz", "1", str(FUZZ_INPUTS))
    assert ran.returncode == 0, ran.stdout[-100:] + ran.stderr
    assert ran.stdout.count("seed ") == FUZZ_INPUTS


def test_threads_under_the_address_sanitizer(checked_program: Path) -> None:
    ran = run(checked_program, "threads")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_threads_under_the_thread_sanitizer(repository: Path, tmp_path: Path) -> None:
    program = build(repository, tmp_path, "thread")
    ran = run(program, "threads")
    if "unexpected memory mapping" in ran.stderr:
        # Older runtimes cannot live with as much address randomisation as newer kernels apply.
        ran = run(program, "threads", prefix=("setarch", "--addr-no-randomize"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "nodes proposed" in ran.stdout


@pytest.mark.parametrize(
    ("code", "sanitizers", "message"),
    [
        ("int* p = new int[2]; delete[] p; return p[argc];", "address,undefined", "heap-use-after-free"),
        ("int i = 2147483647; return (i + argc) == 0;", "address,undefined", "signed integer overflow"),
    ],
)
def test_the_sanitizers_are_at_work(tmp_path: Path, code: str, sanitizers: str, message: str) -> None:
    source = tmp_path / "wrong.cc"
    source.write_text(f"int main(int argc, char**) {{ {code} }}\n")
    program = tmp_path / "wrong"
    command = [cxx(), *FLAGS.split(), f"-fsanitize={sanitizers}", str(source), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True)
    ran = run(program)
    assert ran.returncode != 0 and message in ran.stderr
