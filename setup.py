"""The extension module and the package list; everything else is in pyproject.toml."""

import shlex
import shutil
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import find_namespace_packages, setup
from setuptools.errors import CompileError

ROOT = Path(__file__).parent


class BuildIndex(build_ext):
    """Says what is missing where distutils would only show the compiler's exit status."""

    def build_extensions(self) -> None:
        # Extensions of C++ sources are compiled and linked by this command.
        command = getattr(self.compiler, "compiler_so_cxx", None) or self.compiler.compiler_so
        if shutil.which(command[0]) is None:
            raise CompileError(
                f"sglang_seer.draft._index needs a C++17 compiler: {shlex.join(command)} was to be run and "
                f"{command[0]!r} is not on PATH. Install g++ or clang++, or name one in the CXX variable."
            )
        super().build_extensions()


sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/*.cc") if not path.stem.endswith("_test"))
if not sources:
    raise SystemExit(f"no C++ sources: wanted {ROOT / 'csrc'}/*.cc for the module sglang_seer.draft._index, saw none")

setup(
    packages=find_namespace_packages(include=["sglang_seer", "sglang_seer.*"]),
    ext_modules=[
        Pybind11Extension(
            "sglang_seer.draft._index",
            sources,
            depends=sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/*.h")),
            include_dirs=["csrc"],
            cxx_std=17,
            # Fused multiply-adds differ between machines, and ranks must agree to the last bit.
            extra_compile_args=["-O3", "-pthread", "-fvisibility=hidden", "-ffp-contract=off"],
            extra_link_args=["-pthread"],
        )
    ],
    cmdclass={"build_ext": BuildIndex},
)
