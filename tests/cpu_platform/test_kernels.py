"""The replaced kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sglang_seer_cpu import tree_ops

from tests.cpu_platform.engines import PLATFORM

NUM_DRAWS = 8000
VOCAB = 5


def test_kernels_equal_those_of_sglang(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kernel_check.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, **PLATFORM, "SGLANG_SEER_CPU_KERNELS": "interpret", "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "48 cases are equal" in done.stdout


def _first_tokens(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """How often each token came first, and how often it should have.

    The tree is a root with the children 3 and 1, and a child 2 below the first of them.
    """
    target = torch.rand(4, VOCAB, generator=generator)
    target /= target.sum(-1, keepdim=True)
    bs, n = NUM_DRAWS, 4
    predicts = torch.zeros(bs * n, dtype=torch.int32)
    accept_index = torch.full((bs, 3), -1, dtype=torch.int32)
    tree_ops.tree_speculative_sampling_target_only(
        predicts=predicts,
        accept_index=accept_index,
        accept_token_num=torch.zeros(bs, dtype=torch.int32),
        candidates=torch.tensor([0, 3, 1, 2]).repeat(bs, 1),
        retrive_index=torch.arange(bs * n).view(bs, n),
        retrive_next_token=torch.tensor([1, 3, -1, -1]).repeat(bs, 1),
        retrive_next_sibling=torch.tensor([-1, 2, -1, -1]).repeat(bs, 1),
        uniform_samples=torch.rand(bs, n, generator=generator),
        uniform_samples_for_final_sampling=torch.rand(bs, generator=generator),
        target_probs=target.repeat(bs, 1, 1),
        draft_probs=torch.zeros(bs, n, VOCAB),
    )
    first = predicts.view(bs, n)[:, 0]
    return torch.bincount(first, minlength=VOCAB).double(), target[0].double() * bs


def _chi_square(seen: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((seen - expected) ** 2 / expected).sum())


# 99.99% of chi-square with 4 degrees of freedom.
LIMIT = 23.5


def test_stochastic_trees_follow_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    assert _chi_square(*_first_tokens(generator)) < LIMIT


def test_a_bonus_from_the_whole_distribution_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant forgets what was rejected; with 8000 draws the statistic is in the hundreds."""
    accepts = tree_ops._ChildByCoin.accepts

    def forgetful(self: tree_ops._ChildByCoin, parent: int, child: int) -> bool:
        accepted = accepts(self, parent, child)
        self.draft_probs.zero_()
        return accepted

    monkeypatch.setattr(tree_ops._ChildByCoin, "accepts", forgetful)
    generator = torch.Generator().manual_seed(0)
    assert _chi_square(*_first_tokens(generator)) > LIMIT


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.1, 0.4, 0.2, 0.3]])
    by_k = tree_ops.top_k_renorm_prob(probs, torch.tensor([2, 1 << 30]))
    torch.testing.assert_close(by_k, torch.tensor([[0, 4 / 7, 0, 3 / 7], [0.1, 0.4, 0.2, 0.3]]))
    by_p = tree_ops.top_p_renorm_prob(probs, torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(by_p, torch.tensor([[0, 4 / 7, 0, 3 / 7], [0.1, 0.4, 0.2, 0.3]]))
