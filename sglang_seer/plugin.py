"""Entry point of group `sglang.srt.plugins`: SGLang calls `load` early in each of its processes.

SGLang's loader swallows ordinary exceptions, which would leave a server running without Seer although it was asked
for. So a refusal here is a SystemExit, which passes through, and later checks raise from inside the scheduler.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from itertools import pairwise

from sglang_seer.config import CONFIG_ENV, mode_from_environment, parse_config
from sglang_seer.status import STATUS

logger = logging.getLogger("sglang_seer")
EXIT_REFUSED = 2


def refuse(reasons: Sequence[str]) -> SystemExit:
    """Print every reason and return the exception that ends this process with code 2."""
    lines = "\n".join(f"  - {reason}" for reason in reasons)
    print(f"sglang-seer refuses to start:\n{lines}", file=sys.stderr, flush=True)
    return SystemExit(EXIT_REFUSED)


def requested(argv: Sequence[str]) -> bool:
    """Whether this command line asks for the seer policy."""
    options = ("--schedule-policy", "--scheduler-policy")
    joined = {f"{option}=seer" for option in options}
    return any(word in joined or (word in options and following == "seer") for word, following in pairwise([*argv, ""]))


def startup_reasons() -> list[str]:
    """Everything that speaks against Seer in this environment."""
    from sglang_seer.patches import lines

    reasons: list[str] = []
    STATUS.sglang_version = lines.installed_version()
    try:
        reasons += lines.refusal_reasons(lines.package_root(), STATUS.sglang_version)
    except ModuleNotFoundError as error:
        reasons.append(str(error))
    try:
        import sglang_seer.draft._index  # noqa: F401
    except ImportError as error:
        reasons.append(f"the C++ extension does not load ({error}); reinstall sglang-seer with a C++17 compiler")
    return reasons


def load() -> None:
    """Check, then register the hooks. Whether Seer becomes active is decided by each server's arguments."""
    try:
        mode = mode_from_environment()
        parse_config(config_from_environment())
    except ValueError as error:
        raise refuse([str(error)]) from None
    STATUS.reasons = startup_reasons() or installation_reasons()
    if not STATUS.reasons:
        return
    if mode in ("on", "observe") or requested(sys.argv):
        raise refuse(STATUS.reasons)
    logger.warning("sglang-seer is installed but stays inactive: %s", "; ".join(STATUS.reasons))


def installation_reasons() -> list[str]:
    """Register hooks and algorithm with SGLang; what went wrong, empty if all is registered."""
    try:
        from sglang_seer.engine import algorithm
        from sglang_seer.patches import lines

        lines.install(lines.patch_set_for(STATUS.sglang_version))
        algorithm.register()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        return [f"the hooks cannot be registered: {type(error).__name__}: {error}"]
    return []


def config_from_environment() -> str | None:
    """SGLANG_SEER_CONFIG: a path or inline JSON."""
    return os.environ.get(CONFIG_ENV) or None
