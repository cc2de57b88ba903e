"""The Triton verifier, through Triton's interpreter, against the torch reference.

In a process of its own: TRITON_INTERPRET must be set before Triton is imported, and engines must not see it.
"""

from __future__ import annotations

import os
import subprocess
import sys

CHECK = """
import torch
from sglang_seer.verify import SamplingRows, verify_tree
from sglang_seer.kernels.verify import verify_tree_triton
import triton

real_empty = torch.empty
def poisoned(*shape, **given):  # an output nobody wrote is seen
    tensor = real_empty(*shape, **given)
    return tensor.fill_(float("nan") if tensor.is_floating_point() else -77)

cases = 0
for bs, width, vocab in [(1, 1, 50), (3, 9, 1500), (2, 33, 1024), (5, 4, 1025), (1, 9, 5003)]:
    for kind in ("sampled", "greedy", "mixed", "filtered"):
        generator = torch.Generator().manual_seed(bs * 1000 + width)
        logits = torch.randn(bs * width, vocab + 7, generator=generator)[:, :vocab] * 3
        top_ks = torch.full((bs,), 1 << 30, dtype=torch.int32)
        if kind == "greedy":
            top_ks[:] = 1
        if kind == "mixed":
            top_ks[::2] = 1
        rows = SamplingRows(
            temperatures=torch.rand(bs, generator=generator) + 0.5,
            top_ks=top_ks,
            top_ps=torch.full((bs,), 0.9 if kind == "filtered" else 1.0),
            min_ps=torch.zeros(bs),
            seeds=torch.randint(-(2**62), 2**62, (bs,), generator=generator),
            all_greedy=kind == "greedy",
            any_filter=kind == "filtered",
        )
        positions = torch.randint(0, 2**20, (bs * width,), generator=generator)
        parents = torch.tensor([[max(0, i - 1 - i % 2) if i else -1 for i in range(width)]] * bs, dtype=torch.int32)
        tokens = torch.arange(width, dtype=torch.int32).repeat(bs, 1)
        drawn = verify_tree(logits, tokens * 0 - 5, parents * 0 - 1, positions, rows)
        # Plant the drawn tokens along the tree so that walks get long.
        from sglang_seer.verify import draw
        all_drawn = draw(logits, rows.repeat(width), positions).view(bs, width)
        for i in range(1, width):
            tokens[:, i] = all_drawn.gather(1, parents[:, i : i + 1].long()).view(-1) if i % 2 else 1_000_000 + i
        wanted = verify_tree(logits, tokens, parents, positions, rows)
        torch.empty = poisoned
        seen = verify_tree_triton(logits, tokens, parents, positions, rows)
        torch.empty = real_empty
        assert torch.equal(wanted.lengths, seen.lengths), (kind, wanted.lengths, seen.lengths)
        assert torch.equal(wanted.tokens, seen.tokens) and torch.equal(wanted.nodes, seen.nodes), kind
        assert width == 1 or int(wanted.lengths.max()) > 1
        cases += 1
for bad in (torch.zeros(5, 8), torch.zeros(8, 6).t()):
    try:
        verify_tree_triton(bad, torch.zeros((2, 3), dtype=torch.int32), torch.zeros((2, 3), dtype=torch.int32),
                           torch.zeros(6, dtype=torch.int64), rows)
    except ValueError as error:
        print(error)
    else:
        raise SystemExit("accepted a bad shape")
print(cases, "cases equal")
"""


def test_triton_equals_reference() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "20 cases equal" in done.stdout
    assert "got 5 rows, wanted 2 requests * 3 nodes = 6" in done.stdout
    assert "column stride" in done.stdout
