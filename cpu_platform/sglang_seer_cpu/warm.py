"""Engines that start from a process which has imported what SGLang imports from others.

    python -m sglang_seer_cpu.warm SOCKET

Most of an engine's start is importing, and most of that torch, transformers and their like. This process pays those
once; each engine is a fork of it that then runs `sglang.launch_server` from its first line, as a new interpreter would:
SGLang itself, its platform and its plugins are imported in the fork. What it keeps of this process: the secret of str
hashes, limits, umask and priority.

One request a connection to SOCKET: a JSON line {"command", "environment", "folder"} and the descriptor of the log. The
answers are lines, too: {"pid"}, which is answered by a byte, and {"status"} when that process has ended; or
{"refused"}, and why.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import re
import runpy
import selectors
import signal
import site
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_seer_cpu.environment import set_environment_defaults

MODULE = "sglang.launch_server"
# What takes longest, and nothing that SGLang would not import by itself.
IMPORTS = (
    *("torch", "numpy", "triton", "torch._functorch.aot_autograd", "transformers", "transformers.activations"),
    *(
        "transformers.modeling_layers",
        "transformers.modeling_gguf_pytorch_utils",
        "transformers.image_processing_utils",
    ),
    *("fastapi", "uvicorn", "aiohttp", "requests", "openai.types.responses", "openai.types.realtime"),
    *("compressed_tensors.config", "gguf", "IPython.display", "xgrammar", "psutil"),
)
# Read by SGLang's own modules, by none, or set up in the fork: it may have others than this process has.
FREE = re.compile(
    r"SGLANG_(?!PLATFORM$|SEER_CPU_(?!WARM$)).*|PYTHONPATH|PYTHONUNBUFFERED|PYTEST_.*|COLUMNS|LINES|PWD|OLDPWD|SHLVL|_"
    # SGLang sets these where it is imported, also in a process that then starts engines.
    r"|[A-Z_]+_CACHE_(DIR|PATH)|DG_JIT_.*|FLASHINFER_.*|TLLM_.*|TRITON_PTXAS_.*"
)
MOST_REQUEST_BYTES = 1 << 20
# Others wait meanwhile.
REQUEST_TIMEOUT_S = 20.0


class Request:
    """What is to be started. Raises ValueError for what this process cannot start."""

    def __init__(self, line: bytes) -> None:
        content: dict[str, Any] = json.loads(line)
        self.command: list[str] = content["command"]
        self.environment: dict[str, str] = content["environment"]
        self.folder: str = content["folder"]

    def check(self, *own: Mapping[str, str]) -> None:
        """Raises ValueError where a fork would not be what the command starts. own: environments as good as ours."""
        head = [sys.executable, "-m", MODULE]
        if self.command[: len(head)] != head:
            raise ValueError(f"command: saw {self.command[: len(head)]}, wanted {head}")
        names = {name for one in (self.environment, *own) for name in one if not FREE.fullmatch(name)}
        if other := sorted(name for name in names if self.environment.get(name) not in [one.get(name) for one in own]):
            raise ValueError(f"environment: differs from that of this process in {', '.join(other)}")
        imported = {name.partition(".")[0] for name in sys.modules} - {"sitecustomize"}
        for folder in _import_folders(self.environment):
            if shadowed := sorted(imported.intersection(Path(one).stem for one in _listing(folder))):
                raise ValueError(f"PYTHONPATH: {folder} has {', '.join(shadowed)}, imported here from elsewhere")


def _import_folders(environment: Mapping[str, str]) -> list[str]:
    return [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]


def _listing(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def serve(path: str) -> Request:
    """Forks for each request; returns in the forks only, with what they are to run."""
    own = _preload()
    # Left behind by another one.
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not listener:
                _ended(selector, key)
                continue
            connection, _ = listener.accept()
            connection.settimeout(REQUEST_TIMEOUT_S)
            request, log = _read(connection, own)
            if request is None:
                connection.close()
            elif pid := os.fork():
                os.close(log)
                # Told when it ends, by the descriptor of the process.
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
            else:
                os.setsid()
                # Only now: whoever knows its number may send signals to its group.
                _tell(connection, {"pid": os.getpid()})
                if not _is_wanted(connection):
                    os._exit(1)
                connection.close()
                _close(selector)
                _become(request, log)
                return request


def _preload() -> tuple[Mapping[str, str], ...]:
    """Imports; gives the environments that an engine may have: as it was, and as it is now."""
    before = dict(os.environ)
    set_environment_defaults()
    for name in IMPORTS:
        # Another SGLang may not need it, and not install it.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # Its objects stay in pages that all forks share.
    gc.collect()
    gc.freeze()
    return before, os.environ


def _ended(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    pid, connection = key.data
    selector.unregister(key.fd)
    os.close(key.fd)
    _tell(connection, {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})
    connection.close()


def _close(selector: selectors.BaseSelector) -> None:
    """Nothing of what this process watches is the fork's."""
    for key in selector.get_map().values():
        if key.data is None:
            key.fileobj.close()
        else:
            os.close(key.fd)
            key.data[1].close()
    selector.close()


def _read(connection: socket.socket, own: Sequence[Mapping[str, str]]) -> tuple[Request | None, int]:
    """The request and its log's descriptor; None where it was refused, or nobody asked."""
    log = -1
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, MOST_REQUEST_BYTES, 1)
        while data and not data.endswith(b"\n") and (more := connection.recv(MOST_REQUEST_BYTES)):
            data += more
        (log,) = descriptors
        request = Request(data)
        request.check(*own)
    except (OSError, ValueError, KeyError) as error:
        if log >= 0:
            os.close(log)
        print("warm: refused:", error, file=sys.stderr, flush=True)
        _tell(connection, {"refused": str(error)})
        return None, -1
    return request, log


def _tell(connection: socket.socket, content: dict[str, object]) -> None:
    # Who asked may be gone.
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(content).encode() + b"\n")


def _is_wanted(connection: socket.socket) -> bool:
    """Who asked and has given up meanwhile may have started another one."""
    try:
        return bool(connection.recv(1))
    except OSError:
        return False


def _become(request: Request, log: int) -> None:
    """Makes this fork what a new process with that command would be."""
    import numpy

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    os.chdir(request.folder)
    sys.path[: 1 + len(_import_folders(os.environ))] = [request.folder, *_import_folders(request.environment)]
    os.environ.clear()
    os.environ.update(request.environment)
    importlib.invalidate_caches()
    sys.modules.pop("sitecustomize", None)
    site.execsitecustomize()
    # Forks would all draw the same: Python's own generator sees to itself.
    numpy.random.seed()


def main() -> None:
    """Ends in a fork as `python -m sglang.launch_server` ends."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m sglang_seer_cpu.warm SOCKET, saw {sys.argv[1:]}")
    # Whoever started it ends it, after the engines: not a Ctrl-C that all of them get.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    request = serve(sys.argv[1])
    sys.argv = request.command[2:]
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
