"""A stand-in CUDA driver, so that SGLang 0.5.12 can import ``sgl_kernel``.

That line imports it at module level on every platform. Its library needs
``libcuda.so.1`` only to load; none of its operators is called on a CPU.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name("cuda_stub.c")
_SONAME = "libcuda.so.1"


def load() -> None:
    """Load a driver library under the name ``libcuda.so.1`` into this process.

    A real driver is preferred. Libraries loaded later that need this name get it.

    Raises:
        RuntimeError: there is none and the stand-in could not be built.
    """
    try:
        ctypes.CDLL(_SONAME, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        ctypes.CDLL(str(build()), mode=ctypes.RTLD_GLOBAL)


def build() -> Path:
    """Compile the stand-in into the user's cache, once per version of its source.

    Raises:
        RuntimeError: no C compiler, or it failed.
    """
    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    library = cache / "sglang-seer-cpu" / digest / _SONAME
    if library.exists():
        return library
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise RuntimeError(
            f"SGLang 0.5.12 on a CPU wants a stand-in {_SONAME}, built from {_SOURCE.name}: "
            "no gcc or cc found on the PATH"
        )
    library.parent.mkdir(parents=True, exist_ok=True)
    # Built aside and renamed, so that two processes cannot see half a file.
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / _SONAME
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{_SONAME}"]
        command += ["-o", str(built), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        built.replace(library)
    return library
