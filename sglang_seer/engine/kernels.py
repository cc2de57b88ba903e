"""The one place that chooses between the Triton kernels and their torch references."""

from __future__ import annotations

import os
from typing import Protocol

import torch

from sglang_seer.verify import Accepted, SamplingRows, verify_tree

KERNELS_ENV = "SGLANG_SEER_KERNELS"


class Verifier(Protocol):
    """Signature of `sglang_seer.verify.verify_tree`."""

    def __call__(
        self,
        logits: torch.Tensor,
        draft_tokens: torch.Tensor,
        parents: torch.Tensor,
        positions: torch.Tensor,
        rows: SamplingRows,
    ) -> Accepted: ...


def choose_verifier(device: str) -> Verifier:
    """Triton on a GPU, the torch reference on a CPU; SGLANG_SEER_KERNELS=triton|reference overrides.

    On a CPU the Triton kernels need TRITON_INTERPRET=1, exported before Triton is imported.
    """
    choice = os.environ.get(KERNELS_ENV, "auto")
    if choice not in ("auto", "triton", "reference"):
        raise ValueError(f"{KERNELS_ENV}: got {choice!r}, wanted auto, triton or reference")
    if choice == "triton" or (choice == "auto" and device != "cpu"):
        if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(f"{KERNELS_ENV}=triton on a CPU needs TRITON_INTERPRET=1 in the environment")
        from sglang_seer.kernels.verify import verify_tree_triton

        return verify_tree_triton
    return verify_tree
