"""Equal bits for equal tokens: what replaces SGLang's batch-invariant kernels.

On a CPU three things could make a row's result depend on the other rows. Matrix
products: MKL picks another kernel for few rows; its strict reproducible mode
(``MKL_CBWR``, see environment.py) prevents that on some processors, and products of
fewer than four rows are padded on the others. Attention: summed in float64, see
attention.py. Row-wise operators: already the same for every row.
So the deterministic mode costs nothing here and is always on; the flag
``--enable-deterministic-inference`` adds what SGLang does with it, seeded sampling.
"""

import functools
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from sglang_seer_cpu.attention_hook import BACKEND_NAME
from sglang_seer_cpu.import_hooks import PatchTargetError, after_import, replace
from sglang_seer_cpu.lines import sglang_line

logger = logging.getLogger(__name__)

_ROWS_TO_TRY = (1, 2, 3, 5, 8, 13)
_FEWEST_ROWS = 4


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


def make_products_exact() -> None:
    """Pad small products where this machine's library needs it; say so if that does not help either."""
    if not products_depend_on_batch():
        return
    torch.nn.functional.linear = _with_padded_rows(torch.nn.functional.linear)
    torch.matmul = _with_padded_rows(torch.matmul)
    if products_depend_on_batch():
        logger.warning(
            "matrix products on this CPU depend on the batch size in their last bits, "
            "even with padded rows. Sampled tokens may differ between runs with different "
            "batches."
        )


def _with_padded_rows(product: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The product of a matrix with a weight, computed with four rows at least."""

    @functools.wraps(product)
    def padded(rows: torch.Tensor, weight: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        missing = _FEWEST_ROWS - rows.shape[0] if rows.dim() == 2 == weight.dim() else 0
        if missing <= 0 or missing == _FEWEST_ROWS or rows.dtype == torch.float64:
            return product(rows, weight, *arguments, **keywords)
        more = torch.nn.functional.pad(rows, (0, 0, 0, missing))
        return product(more, weight, *arguments, **keywords)[: rows.shape[0]]

    return padded


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
