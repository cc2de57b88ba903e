"""Speculation under the overlapped scheduler.

SGLang turns overlap off for NGRAM and EAGLE on device ``cpu``, because its AMX
kernels lack it. The relay of accepted tokens between iterations is plain tensor
code and works here, and it is what a GPU server runs, so it stays testable.
"""

from types import ModuleType
from typing import Any

from sglang_seer_cpu.import_hooks import after_import, replace
from sglang_seer_cpu.lines import sglang_line


def install() -> None:
    """Plant the hook; older lines have no such rule."""
    if sglang_line() == "0.5.23":
        after_import("sglang.srt.arg_groups.speculative_hook", _keep_overlap)


def _keep_overlap(module: ModuleType) -> None:
    """Replace ``sglang.srt.arg_groups.speculative_hook._disable_overlap_schedule_for_cpu``."""
    replace(module, "_disable_overlap_schedule_for_cpu", _do_nothing)


def _do_nothing(server_args: Any) -> None:
    """Leave ``disable_overlap_schedule`` as the user set it."""
