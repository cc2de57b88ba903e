"""murmur3 of (seed, position, column): the noise behind seeded sampling.

numpy because its uint32 wraps around by itself and torch's does not multiply.
"""

import functools

import numpy as np
import torch

_C1, _C2 = np.uint32(0xCC9E2D51), np.uint32(0x1B873593)
_MUL, _ADD = np.uint32(5), np.uint32(0xE6546B64)
_F1, _F2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_HASHED_BYTES = np.uint32(16)  # seed 8, position 4, column 4


def _rotate_left(x: np.ndarray, bits: int) -> np.ndarray:
    return (x << np.uint32(bits)) | (x >> np.uint32(32 - bits))


def _scramble(block: np.ndarray) -> np.ndarray:
    """What murmur3 does to a block before it meets the state."""
    return _rotate_left(block * _C1, 15) * _C2


def _absorb(state: np.ndarray, scrambled: np.ndarray) -> np.ndarray:
    return _rotate_left(state ^ scrambled, 13) * _MUL + _ADD


@functools.lru_cache(maxsize=4)
def _whole_vocabulary(size: int) -> tuple[np.ndarray, np.ndarray]:
    columns = np.arange(size)
    return columns, _scramble(columns.astype(np.uint32))


def murmur_hash32(
    seed: torch.Tensor,  # [n] uint64
    positions: torch.Tensor,  # [n] int
    col_indices: torch.Tensor,  # [m] int
) -> torch.Tensor:
    """Replace ``sglang.kernels.ops.sampling.murmur_hash.murmur_hash32``.

    Returns:
        [n, m] uint32.
    """
    seeds = seed.to(torch.int64).numpy().view(np.uint64)
    low, high = seeds.astype(np.uint32), (seeds >> np.uint64(32)).astype(np.uint32)
    state = np.zeros(seeds.shape, dtype=np.uint32)
    for block in (low, high, positions.to(torch.int64).numpy().astype(np.uint32)):
        state = _absorb(state, _scramble(block))
    columns = col_indices.to(torch.int64).numpy()
    # Sampling hashes the whole vocabulary at every step, so that is kept.
    vocabulary, scrambled = _whole_vocabulary(columns.size)
    if not np.array_equal(columns, vocabulary):
        scrambled = _scramble(columns.astype(np.uint32))
    hashed = _absorb(state[:, None], scrambled[None, :])
    hashed ^= _HASHED_BYTES
    hashed ^= hashed >> np.uint32(16)
    hashed *= _F1
    hashed ^= hashed >> np.uint32(13)
    hashed *= _F2
    hashed ^= hashed >> np.uint32(16)
    return torch.from_numpy(hashed)
