"""Keep freed tensors in the process instead of giving their pages back.

Attention allocates and frees megabytes at every layer. glibc maps such blocks anew
each time, and the kernel zeroes every page: measured, that is half to three
quarters of the time of a batch of 32.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest mmap threshold glibc accepts on 64 bits.
_MMAP_THRESHOLD_BYTES = 32 << 20
_TRIM_THRESHOLD_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Raise glibc's thresholds; another C library has no ``mallopt`` and is left alone."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
