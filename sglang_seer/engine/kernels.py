"""The one place that chooses between the Triton kernels and their torch references."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sglang_seer.verify import Accepted, Logprobs, SamplingRows, verify_tree
from sglang_seer.verify.tree_mask import TreeMetadata, tree_metadata

KERNELS_ENV = "SGLANG_SEER_KERNELS"


class Verifier(Protocol):
    """Signature of `sglang_seer.kernels.verify.verify_tree_triton`."""

    def __call__(
        self,
        logits: torch.Tensor,
        draft_tokens: torch.Tensor,
        parents: torch.Tensor,
        positions: torch.Tensor,
        rows: SamplingRows,
        *,
        want: Logprobs,
        exact: bool,
        levels: int,
    ) -> Accepted: ...


class MakeMetadata(Protocol):
    """Signature of `sglang_seer.kernels.tree_mask.tree_metadata_triton`."""

    def __call__(self, parents: torch.Tensor, seq_lens: torch.Tensor, total_tokens: int | None) -> TreeMetadata: ...


@dataclass(frozen=True, slots=True)
class Kernels:
    """What runs on one device."""

    name: str
    verify: Verifier
    tree_metadata: MakeMetadata


def _verify_by_reference(*tensors: Any, want: Logprobs, exact: bool, levels: int) -> Accepted:
    # The reference is exact and reads every row, whatever is asked.
    return verify_tree(*tensors, want=want)


def _metadata_by_reference(parents: torch.Tensor, seq_lens: torch.Tensor, total_tokens: int | None) -> TreeMetadata:
    return tree_metadata(parents, seq_lens, with_mask=total_tokens is not None)


def choose_kernels(device: str) -> Kernels:
    """Triton on a GPU, the torch references on a CPU; SGLANG_SEER_KERNELS=triton|reference overrides.

    On a CPU the Triton kernels need TRITON_INTERPRET=1, exported before Triton is imported.
    """
    choice = os.environ.get(KERNELS_ENV, "auto")
    if choice not in ("auto", "triton", "reference"):
        raise ValueError(f"{KERNELS_ENV}: got {choice!r}, wanted auto, triton or reference")
    if choice == "triton" or (choice == "auto" and device != "cpu"):
        if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(f"{KERNELS_ENV}=triton on a CPU needs TRITON_INTERPRET=1 in the environment")
        from sglang_seer.kernels.tree_mask import tree_metadata_triton
        from sglang_seer.kernels.verify import verify_tree_triton

        return Kernels("triton", verify_tree_triton, tree_metadata_triton)
    return Kernels("reference", _verify_by_reference, _metadata_by_reference)
