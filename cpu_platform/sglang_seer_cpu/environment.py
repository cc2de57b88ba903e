"""Environment of an engine on a CPU: what is read before any argument is parsed."""

import os

import torch

THREADS_ENV = "SGLANG_SEER_CPU_THREADS"
START_ENV = "SGLANG_SEER_CPU_START"

# A value the user exported always wins.
_DEFAULTS = {
    # A tiny model spends minutes in Inductor and gains nothing.
    "TORCHDYNAMO_DISABLE": "1",
    # SGLang's tiled KV copy is a Triton kernel; this moves rows with torch.
    "SGLANG_NATIVE_MOVE_KV_CACHE": "1",
    # See models/__init__.py.
    "SGLANG_EXTERNAL_MODEL_PACKAGE": "sglang_seer_cpu.models",
}


def set_environment_defaults() -> None:
    """Set defaults here; the engine's child processes inherit them."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("OMP_NUM_THREADS", str(num_threads()))
    # Read by MKL at its first product: the same bits for any number of rows and threads.
    os.environ.setdefault("MKL_CBWR", _reproducible_mkl_branch())


def _reproducible_mkl_branch() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return "AVX512,STRICT" if capability == "AVX512" else "AVX2,STRICT"


def num_threads() -> int:
    """Threads of one scheduler process: ``SGLANG_SEER_CPU_THREADS``, else 1.

    Raises:
        ValueError: the variable is not a positive integer.
    """
    text = os.environ.get(THREADS_ENV, "1")
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{THREADS_ENV} must be a positive integer, got {text!r}")
    return int(text)


def start_method() -> str:
    """How child processes start: ``SGLANG_SEER_CPU_START``, else ``fork``.

    Raises:
        ValueError: the variable is neither ``fork`` nor ``spawn``.
    """
    method = os.environ.get(START_ENV, "fork")
    if method not in ("fork", "spawn"):
        raise ValueError(f"{START_ENV} must be 'fork' or 'spawn', got {method!r}")
    return method
