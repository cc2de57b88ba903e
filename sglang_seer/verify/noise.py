"""Counter-based Gumbel noise keyed by (seed, position, column), bit for bit that of SGLang's seeded sampler.

SGLang hashes the seed (two 32-bit blocks), the position and the column with MurmurHash3 (x86, 32 bit) and maps the
hash to a uniform number by division through 2**32 - 1. Because a draw depends on nothing but its key, a token drawn
at a tree node equals the token that plain decoding draws at the same position from the same logits.
"""

from __future__ import annotations

import torch

_MASK32 = 0xFFFFFFFF
# Hash 2**32 - 1 would give uniform 1 and infinite noise; SGLang caps log(uniform) at minus the hash spacing.
_LOG_UNIFORM_CAP = -(2.0**-32)


def _mix(state: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    block = (block * 0xCC9E2D51) & _MASK32
    block = ((block << 15) | (block >> 17)) & _MASK32
    block = (block * 0x1B873593) & _MASK32
    state = state ^ block
    state = ((state << 13) | (state >> 19)) & _MASK32
    return (state * 5 + 0xE6546B64) & _MASK32


def murmur_hash32(seeds: torch.Tensor, positions: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Hash every (row, column) pair.

    seeds: [rows] int64. positions: [rows] int64, absolute in the sequence. columns: [cols] int64.
    Returns [rows, cols] int64 holding unsigned 32-bit values. int64 products wrap modulo 2**64, which the mask to 32
    bits does not see.
    """
    low = (seeds & _MASK32)[:, None]
    high = ((seeds >> 32) & _MASK32)[:, None]
    state = _mix(torch.zeros_like(low), low)
    state = _mix(state, high)
    state = _mix(state, (positions & _MASK32)[:, None])
    state = _mix(state, (columns & _MASK32)[None, :])
    state = state ^ 16  # length of the hashed key in bytes
    state = state ^ (state >> 16)
    state = (state * 0x85EBCA6B) & _MASK32
    state = state ^ (state >> 13)
    state = (state * 0xC2B2AE35) & _MASK32
    return state ^ (state >> 16)


def gumbel_noise(seeds: torch.Tensor, positions: torch.Tensor, num_columns: int) -> torch.Tensor:
    """Standard Gumbel noise, [rows, num_columns] float64: -log(-log(uniform))."""
    columns = torch.arange(num_columns, device=seeds.device)
    noise = murmur_hash32(seeds, positions, columns).to(torch.float64) / _MASK32
    noise.log_().clamp_(min=torch.finfo(torch.float64).min, max=_LOG_UNIFORM_CAP).neg_()
    return noise.log_().neg_()
