"""The SGLang lines this platform knows, and the one that is installed."""

import functools
from importlib.metadata import version

# First release of each line, newest first.
_LINES = (("0.5.23", (0, 5, 20)), ("0.5.15", (0, 5, 13)), ("0.5.12", (0, 5, 12)))


@functools.cache
def sglang_line() -> str:
    """``0.5.23``, ``0.5.15`` or ``0.5.12``.

    Raises:
        RuntimeError: the installed SGLang is older than all of them.
    """
    installed = version("sglang")
    numbers = tuple(int(part) for part in installed.split(".")[:3] if part.isdigit())
    for line, first in _LINES:
        if numbers >= first:
            return line
    raise RuntimeError(f"sglang-seer-cpu wants SGLang 0.5.12 or newer, found {installed}")
