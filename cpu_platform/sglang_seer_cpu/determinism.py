"""Equal bits for equal tokens: what replaces SGLang's batch-invariant kernels.

On a CPU three things could make a row's result depend on the other rows. Matrix
products: MKL picks another kernel for few rows, unless it runs in its strict
reproducible mode (``MKL_CBWR``, see environment.py). Attention: summed in float64,
see attention.py. Row-wise operators: already the same for every row.
So the deterministic mode costs nothing here and is always on; the flag
``--enable-deterministic-inference`` adds what SGLang does with it, seeded sampling.
"""

import logging
from types import ModuleType

import torch

from sglang_seer_cpu.attention_hook import BACKEND_NAME
from sglang_seer_cpu.import_hooks import PatchTargetError, after_import, replace
from sglang_seer_cpu.lines import sglang_line

logger = logging.getLogger(__name__)

_ROWS_TO_TRY = (1, 2, 3, 5, 8, 13)


def install() -> None:
    """Plant the hooks; call before SGLang's modules are imported."""
    after_import("sglang.srt.batch_invariant_ops", _no_cuda_batch_invariance)
    newest = sglang_line() == "0.5.23"
    lists_in = "sglang.srt.arg_groups.choices" if newest else "sglang.srt.server_args"
    after_import(lists_in, _allow_torch_native)


def products_depend_on_batch(hidden: int = 96, outputs: int = 200) -> bool:
    """Whether a row of a matrix product changes with the number of rows."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, hidden, generator=generator)
    rows = torch.randn(64, hidden, generator=generator)
    whole = torch.nn.functional.linear(rows, weight)
    return any(not torch.equal(torch.nn.functional.linear(rows[:n], weight), whole[:n]) for n in _ROWS_TO_TRY)


def warn_if_not_exact() -> None:
    """Say so when this machine's library ignores the reproducible mode."""
    if products_depend_on_batch():
        logger.warning(
            "matrix products on this CPU depend on the batch size in their last bits: "
            "MKL_CBWR is not in effect. Sampled tokens may differ between runs with "
            "different batches."
        )


def _no_cuda_batch_invariance(module: ModuleType) -> None:
    """Replace ``sglang.srt.batch_invariant_ops.enable_batch_invariant_mode``.

    It registers Triton kernels for CUDA and fails without an accelerator.
    """
    replace(module, "enable_batch_invariant_mode", lambda enable_bmm=True: None)


def _allow_torch_native(module: ModuleType) -> None:
    """Let SGLang accept our attention in deterministic mode, and with the radix
    cache, which it turns off for backends that it does not list."""
    for name in (
        "DETERMINISTIC_ATTENTION_BACKEND_CHOICES",
        "RADIX_SUPPORTED_DETERMINISTIC_ATTENTION_BACKEND",
    ):
        backends = getattr(module, name, None)
        if backends is None:
            raise PatchTargetError(f"{module.__name__} has no list {name}")
        backends.append(BACKEND_NAME)
