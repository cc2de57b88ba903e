"""SGLang on a plain CPU, chosen with ``SGLANG_PLATFORM=seer_cpu``.

``activate`` is the entry point of group ``sglang.srt.platforms``. SGLang calls
it while ``sglang.srt.utils`` is being imported, so before the modules with the
kernels: it only sets environment defaults and plants import hooks.
"""

import os

PLATFORM_NAME = "seer_cpu"


def activate() -> str | None:
    """Prepare this process and name the platform class for SGLang.

    None unless it was asked for by name: SGLang tries every installed platform,
    and this one must not take over a machine with a GPU.
    """
    if os.environ.get("SGLANG_PLATFORM") != PLATFORM_NAME:
        return None
    # SGLang is half imported when it calls, and not at all when a test imports us.
    from sglang_seer_cpu.installation import install_everything

    return install_everything()
