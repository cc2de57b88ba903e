"""Gumbel noise keyed by (seed, position, column), as SGLang's seeded sampler defines it; the jit half of a kernel.

`gumbel` is SGLang's own formula in float64. `fast_exponential_log2` gives the same number in float32 with a bounded
error: a kernel races all columns on it and recomputes in float64 only what the bound leaves open.
Reference: `sglang_seer.verify.noise`.
"""

from __future__ import annotations

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950408889634)
# -log2(ln 2): what `fast_exponential_log2` leaves out.
FAST_OFFSET = tl.constexpr(0.5287663729448977)
# Triton's interpreter knows no PTX.
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def fast_log2_abs(x):
    """Base-2 logarithm of the absolute value of normal float32, off by 2**-22 (of itself outside 0.5 to 2)."""
    if _INTERPRETED:
        return tl.log2(tl.abs(x))
    # The absolute value is a part of the one instruction.
    return tl.inline_asm_elementwise(
        "{.reg .f32 a; abs.f32 a, $1; lg2.approx.ftz.f32 $0, a;}",
        "=f,f",
        [x],
        dtype=tl.float32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def fast_exp2(x):
    """2**x of float32 in one instruction, off by 2**-22 of itself; 0 below 2**-126."""
    if _INTERPRETED:
        return tl.exp2(x)
    return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def _scramble(block):
    block = block * 0xCC9E2D51
    block = (block << 15) | (block >> 17)
    return block * 0x1B873593


@triton.jit
def _absorb(state, scrambled):
    state = state ^ scrambled
    state = (state << 13) | (state >> 19)
    return state * 5 + 0xE6546B64


@triton.jit
def row_state(seed, position):
    """MurmurHash3 (x86, 32 bit) after seed low, seed high and position: one uint32 a row."""
    seed, position = seed.to(tl.int64), position.to(tl.int64)
    state = _absorb((seed & 0).to(tl.uint32), _scramble((seed & 0xFFFFFFFF).to(tl.uint32)))
    state = _absorb(state, _scramble(((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)))
    return _absorb(state, _scramble((position & 0xFFFFFFFF).to(tl.uint32)))


@triton.jit
def column_hash(state, columns):
    """uint32 hash of every column, given the state of its row."""
    state = _absorb(state, _scramble(columns.to(tl.uint32)))
    state = state ^ 16  # length of the hashed key in bytes
    state = (state ^ (state >> 16)) * 0x85EBCA6B
    state = (state ^ (state >> 13)) * 0xC2B2AE35
    return state ^ (state >> 16)


@triton.jit
def gumbel(hashes):
    """float64 noise: -log(-log(hash / (2**32 - 1))), with SGLang's cap and floor at the two ends."""
    uniform = hashes.to(tl.float64) / 4294967295.0
    # 5e-324 keeps the unused side of the choice out of log(0).
    log_uniform = tl.minimum(tl.log(tl.maximum(uniform, 5e-324)), -2.3283064365386963e-10)
    return -tl.log(tl.where(uniform == 0.0, 1.7976931348623157e308, -log_uniform))


@triton.jit
def fast_exponential_log2(hashes):
    """log2 of -log2(uniform), float32: minus the noise in units of ln 2, less `FAST_OFFSET`; off by less than 2**-13.

    Near uniform 1, where the noise is large, -log(uniform) comes from its complement by a Taylor series, so that it
    keeps its relative precision. Hash 2**32 - 1 comes out as minus infinity (noise of 22.2 is right) and hash 0 as
    plus infinity (noise of -709.8 is right).
    """
    uniform = hashes.to(tl.float32) * 2.3283064365386963e-10
    rest = (hashes ^ 0xFFFFFFFF).to(tl.float32)
    # rest / 2**32 * (1 + rest / 2**33) / ln 2
    taylor = rest * (3.359036149664231e-10 + 3.9104327439146944e-20 * rest)
    # The two have different signs: a change of sign would cost an instruction, an absolute value does not.
    return fast_log2_abs(tl.where(hashes >= 0xFE000000, taylor, fast_log2_abs(uniform)))
