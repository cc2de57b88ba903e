"""How the verifier's kernels are laid over the machine: the one place that knows shapes and sizes.

The numbers are estimates for an H200 from occupancy and bandwidth; `bench verify` times both schedules side by side.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton

# Columns a program reads at a time, and its warps: 16 columns a thread, four loads in flight, no spills on sm_90.
BLOCK = 2048
WARPS = 4
# Columns at a time when a section is raced again in float64, which needs twice the registers.
AGAIN_BLOCK = 512
# Sections of at least two blocks, and enough programs for the last wave not to matter.
LEAST_BLOCKS = 2
PROGRAMS_PER_MULTIPROCESSOR = 32
MOST_SPLITS = 64
# The walk pays one launch a level and saves the rows off the path; half of a tree's levels are walked on average.
LEVEL_US = 5.0
READ_BYTES_PER_US = 3.5e6
WALKED_SHARE = 0.5
# Candidates of a filtered row that are sorted, and columns gathered at a time.
CAPACITY = 1024
TILE = 1024
# Multiprocessors assumed where there is no GPU (Triton's interpreter).
INTERPRETED_MULTIPROCESSORS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """walk: read only the rows on the path, one launch a tree level; else all rows at once.

    splits: sections of a row. section: columns of one, a multiple of block. block, again: columns read at a time.
    capacity: candidates of a filtered row. tile: columns gathered at a time. warps: of the scan.
    """

    walk: bool
    splits: int
    section: int
    block: int = BLOCK
    again: int = AGAIN_BLOCK
    capacity: int = CAPACITY
    tile: int = TILE
    warps: int = WARPS


@functools.lru_cache(maxsize=8)
def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU."""
    if device.type != "cuda":
        return INTERPRETED_MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def split_sections(vocab: int, wanted: int, block: int) -> tuple[int, int]:
    """(splits, columns a section): at most `wanted` sections, none empty."""
    section = triton.cdiv(triton.cdiv(vocab, max(wanted, 1)), block) * block
    return triton.cdiv(vocab, section), section


def make_schedule(rows: int, vocab: int, num_multiprocessors: int, *, walk: bool, block: int = BLOCK) -> Schedule:
    """The layout of one schedule. rows: rows read by one launch."""
    wanted = triton.cdiv(PROGRAMS_PER_MULTIPROCESSOR * num_multiprocessors, rows)
    wanted = min(wanted, MOST_SPLITS, max(1, vocab // (LEAST_BLOCKS * block)))
    splits, section = split_sections(vocab, wanted, block)
    return Schedule(walk=walk, splits=splits, section=section, block=block)


@functools.lru_cache(maxsize=4096)
def choose_schedule(bs: int, width: int, levels: int, vocab: int, itemsize: int, num_multiprocessors: int) -> Schedule:
    """The faster schedule for a shape, by the table above. itemsize: bytes a logit. levels: of the deepest tree."""
    saved_rows = bs * (width - 1 - WALKED_SHARE * (levels - 1))
    saved_us = saved_rows * vocab * itemsize / READ_BYTES_PER_US
    walk = levels > 1 and saved_us > (levels - 1) * LEVEL_US
    return make_schedule(bs if walk else bs * width, vocab, num_multiprocessors, walk=walk)
