"""`python -m bench.verify.compile_check`: compiles the kernels for sm_90, GPU or not, and says what they use.

A line a variant: registers a thread, spills, instructions in the loops that have more than a few. A first look at a
change before hardware is at hand; it says nothing about time.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sglang_seer.kernels.draw import scan_kernel
from sglang_seer.kernels.filters import filtered_draw_kernel
from sglang_seer.kernels.schedule import AGAIN_BLOCK, BLOCK, CAPACITY, TILE, WARPS
from sglang_seer.kernels.top_logprobs import top_logprobs_kernel
from sglang_seer.kernels.tree_mask import tree_mask_kernel
from sglang_seer.kernels.walk import finish_kernel

TARGET = GPUTarget("cuda", 90, 32)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Pointers by name; the others are int32.
FLOATS = ("bias", "temperatures", "top_ps", "min_ps", "stats", "maxima", "logprobs", "original", "normalizers")
LONGS = ("seeds", "positions", "candidates", "bits", "index", "next_token", "next_sibling", "words", "seq_lens")
POINTERS = {
    **{f"{name}_ptr": "*fp32" for name in (*FLOATS, "top_logprobs")},
    **{f"{name}_ptr": "*i64" for name in LONGS},
    "scores_ptr": "*fp64",
}
# Arguments that are multiples of 16 for real models.
ALIGNED = {"logits_stride", "bias_stride", "vocab"}
A_FEW = 30


def variants() -> Iterator[tuple[Any, dict[str, Any], int, str]]:
    """(kernel, constants, warps, type of the logits)."""
    plain = {"HAS_BIAS": False, "HAS_MASK": False}
    dressed = {"HAS_BIAS": True, "HAS_MASK": True}
    scan = {"WIDTH": 16, "SPLITS": 8, "BLOCK": BLOCK, "AGAIN": AGAIN_BLOCK}
    for walk in (False, True):
        for filters in (False, True):
            given = {"WALK": walk, "HAS_FILTER": filters, "ALL_GREEDY": False, "ORIGINAL": False, "MAXIMA": False}
            yield scan_kernel, {**given, **scan, **plain}, WARPS, "*fp32"
    everything = {"WALK": False, "HAS_FILTER": True, "ALL_GREEDY": False, "ORIGINAL": True, "MAXIMA": True}
    yield scan_kernel, {**everything, **scan, **dressed}, WARPS, "*bf16"
    greedy = {"WALK": False, "HAS_FILTER": False, "ALL_GREEDY": True, "ORIGINAL": False, "MAXIMA": False}
    yield scan_kernel, {**greedy, **scan, **plain}, WARPS, "*fp32"
    for width, splits, warps in ((8, 8, 1), (64, 32, 4)):
        finish = {"ALL_GREEDY": False, "TEMPERED": True, "ORIGINAL": True, "NORMALIZERS": 1}
        yield finish_kernel, {**finish, "WIDTH": width, "SPLITS": splits, **dressed}, warps, "*fp32"
    select = {"SPLITS": 8, "GROUPS": 8192, "CAPACITY": CAPACITY, "TILE": TILE, "STABLE": True}
    yield filtered_draw_kernel, {"WALK": True, **select, **plain}, 8, "*fp32"
    yield top_logprobs_kernel, {"UNSCALED": False, "GROUPS": 8192, **dressed}, 8, "*fp32"
    mask = {"MASK": True, "BATCH": 256, "WIDTH": 16, "ENDS": 32, "WORDS": 512, "PROGRAMS": 4}
    yield tree_mask_kernel, mask, 2, "*fp32"


def compile_variant(kernel: Any, constants: dict[str, Any], warps: int, logits: str) -> bytes:
    """The machine code of one variant."""
    signature: dict[str, str] = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name == "logits_ptr":
            signature[name] = logits
        elif kernel is tree_mask_kernel and name == "mask_ptr":
            signature[name] = "*i8"
        else:
            signature[name] = POINTERS.get(name, "*i32") if name.endswith("_ptr") else "i32"
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name.endswith("_ptr") or name in ALIGNED
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return bytes(triton.compile(source, target=TARGET, options={"num_warps": warps}).asm["cubin"])


def resources(code: bytes) -> tuple[int, int, list[int]]:
    """(registers a thread, spills, instructions of each loop that has more than a few)."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        run = [[TOOLS / "cuobjdump", "-res-usage", file.name], [TOOLS / "nvdisasm", "-c", file.name]]
        usage, listing = (subprocess.run(args, capture_output=True, text=True, check=True).stdout for args in run)
    seen = re.search(r"REG:(\d+).*?LOCAL:(\d+)", usage)
    if seen is None:
        raise ValueError(f"cuobjdump: wanted REG and LOCAL, saw {usage!r}")
    spilled = len(re.findall(r"\bSTL\b", listing))
    labels: dict[str, int] = {}
    count = 0
    loops = []
    for line in listing.splitlines():
        if label := re.match(r"^(\.L_x_\d+):", line):
            labels[label.group(1)] = count
        elif instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?);", line):
            count += 1
            jump = re.search(r"BRA\S* .*?(\.L_x_\d+)", instruction.group(1))
            if jump and labels.get(jump.group(1), count) < count - A_FEW:
                loops.append(count - labels[jump.group(1)])
    return int(seen.group(1)), int(seen.group(2)) + spilled, loops


def main() -> None:
    for kernel, constants, warps, logits in variants():
        registers, spills, loops = resources(compile_variant(kernel, constants, warps, logits))
        on = " ".join(name if value is True else f"{name}={value}" for name, value in constants.items() if value)
        print(f"{kernel.__name__} {logits} warps={warps} {on}: registers {registers} loops {loops} spills {spills}")


if __name__ == "__main__":
    main()
