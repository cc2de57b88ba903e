"""The noise of the kernels: SGLang's in float64, and its fast float32 form within the bound that the race relies on."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_seer.kernels.noise import FAST_OFFSET, LN2, column_hash, fast_exponential_log2, gumbel, row_state
from sglang_seer.verify import gumbel_noise, murmur_hash32

COLUMNS = 8192
BOUND = 2.0**-13


@triton.jit
def noise_kernel(seeds_ptr, positions_ptr, hashes_ptr, exact_ptr, fast_ptr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    hashes = column_hash(row_state(tl.load(seeds_ptr + row), tl.load(positions_ptr + row)), columns)
    tl.store(hashes_ptr + row * BLOCK + columns, hashes.to(tl.int64))
    tl.store(exact_ptr + row * BLOCK + columns, gumbel(hashes))
    tl.store(fast_ptr + row * BLOCK + columns, fast_exponential_log2(hashes))


@triton.jit
def hashed_noise_kernel(hashes_ptr, exact_ptr, fast_ptr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    hashes = tl.load(hashes_ptr + columns).to(tl.uint32)
    tl.store(exact_ptr + columns, gumbel(hashes))
    tl.store(fast_ptr + columns, fast_exponential_log2(hashes))


def noise_of(fast: torch.Tensor) -> torch.Tensor:
    return (FAST_OFFSET.value - fast.double()) * LN2.value


def test_noise_of_seeds_and_positions() -> None:
    seeds = torch.tensor([0, 1, -5, 2**62 + 99, -(2**63)])
    positions = torch.tensor([0, 7, 2**31 - 1, 99999, 5])
    hashes = torch.zeros(5, COLUMNS, dtype=torch.int64)
    exact, fast = torch.zeros(5, COLUMNS, dtype=torch.float64), torch.zeros(5, COLUMNS)
    noise_kernel[(5,)](seeds, positions, hashes, exact, fast, BLOCK=COLUMNS)
    assert torch.equal(hashes, murmur_hash32(seeds, positions, torch.arange(COLUMNS)))
    wanted = gumbel_noise(seeds, positions, COLUMNS)
    assert (exact - wanted).abs().max() < 1e-14
    assert ((noise_of(fast) - wanted) / LN2.value).abs().max() < BOUND


def test_noise_at_the_ends_of_the_hash() -> None:
    """Around 0, 2**31, 2**32 and where the Taylor series begins, and spread over all hashes."""
    edges = [0, 2**31, 0xFE000000, 2**32 - 1]
    near = torch.cat([torch.arange(edge - 600, edge + 600) for edge in edges])
    powers = 2 ** torch.arange(32)
    spread = torch.arange(0, 2**32, 2**32 // 3000)
    hashes = torch.cat([near, powers, 2**32 - 1 - powers, spread])
    hashes = hashes[(hashes >= 0) & (hashes < 2**32)][:COLUMNS]
    hashes = torch.cat([hashes, torch.full((COLUMNS - len(hashes),), 12345)])
    exact, fast = torch.zeros(COLUMNS, dtype=torch.float64), torch.zeros(COLUMNS)
    hashed_noise_kernel[(1,)](hashes, exact, fast, BLOCK=COLUMNS)
    uniform = hashes.double() / (2**32 - 1)
    log_uniform = uniform.log().clamp(min=torch.finfo(torch.float64).min, max=-(2.0**-32))
    torch.testing.assert_close(exact, -(-log_uniform).log(), rtol=1e-14, atol=1e-14)
    ends = (hashes == 0) | (hashes == 2**32 - 1)
    assert ((noise_of(fast) - exact) / LN2.value)[~ends].abs().max() < BOUND
    # The two ends come out infinite; a race that they win or lose is decided in float64.
    assert (noise_of(fast)[hashes == 0] == float("-inf")).all()
    assert (noise_of(fast)[hashes == 2**32 - 1] == float("inf")).all()
