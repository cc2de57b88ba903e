"""`python -m sglang_seer bench verify`: the verifier against SGLang's stock path, FlashInfer and the memory floor.

On a CUDA host with torch and Triton; SGLang and FlashInfer are left out, by name, where they cannot be imported. Each
case is checked against the reference before its number is kept, and the file is written after every case, so a run
that was cut off goes on where it was. On a CPU the reference alone runs, on small shapes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.rows import Row, header, median_row, table, write_json
from bench.verify import systems, timing
from bench.verify.cases import Case, Shape, make_case, random_parents
from sglang_seer.verify import Accepted, Logprobs
from sglang_seer.verify.tree_mask import tree_metadata

BENCH = "verify"
PACKAGES = ("sglang-seer", "torch", "triton", "sglang", "flashinfer-python")
BATCHES = (1, 4, 16, 64, 256)
NODES = (1, 8, 32)
VOCABS = (32000, 128256, 152064)
KINDS = (("greedy", True), ("t1", False), ("t1", True), ("topp95", True))
QUICK = r"bs(1|64|256)_n8_v152064_"
CPU_SHAPES = ((1, 1, 2048), (4, 4, 2048))
# The logits of one case, of which stock's passes make several copies.
MOST_LOGITS_BYTES = 6 << 30
MASK_CASES = ((256, 8, 2048), (256, 8, 16384), (64, 32, 4096))
LOGPROB_ERROR = 5e-5
WRONG = 1


def case_name(shape: Shape, want: Logprobs) -> str:
    suffix = "_logprob" if want.tempered else ""
    return f"bs{shape.bs}_n{shape.nodes}_v{shape.vocab}_{shape.kind}{suffix}"


def cases(on_gpu: bool) -> Iterator[tuple[Shape, Logprobs]]:
    """All shapes that fit, the headline among them."""
    grid = [(bs, nodes, vocab) for vocab in VOCABS for bs in BATCHES for nodes in NODES]
    for bs, nodes, vocab in grid if on_gpu else CPU_SHAPES:
        if bs * nodes * vocab * 4 > MOST_LOGITS_BYTES:
            continue
        for kind, logprob in KINDS:
            yield Shape(bs=bs, nodes=nodes, vocab=vocab, kind=kind, spread=4.0), Logprobs(tempered=logprob)


def differences(wanted: Accepted, seen: Accepted) -> list[str]:
    """What of a result is not the reference's."""
    found = [
        name for name in ("lengths", "tokens", "nodes") if not torch.equal(getattr(wanted, name), getattr(seen, name))
    ]
    if wanted.logprobs is not None and seen.logprobs is not None and not found:
        worst = float((wanted.logprobs - seen.logprobs).abs().max())
        if not worst <= LOGPROB_ERROR:
            found.append(f"logprobs (by {worst:.2g})")
    return found


def _times(run: Callable[[], Any], flush: torch.Tensor, *, graph: bool) -> list[float]:
    return timing.time_us(timing.graph_of(run) if graph else run, flush)


def measure(shape: Shape, want: Logprobs, flush: torch.Tensor, rate: float) -> tuple[list[Row], dict[str, str]]:
    """Rows of one case on the GPU, and reasons of systems left out. Raises ValueError if a result is wrong."""
    case = make_case(shape, seed=shape.bs + shape.nodes, device="cuda")
    name = case_name(shape, want)
    wanted = systems.reference_in_pieces(case, want)
    left_out: dict[str, str] = {}
    times: dict[str, list[float]] = {}
    # Filters wait for the host, so they are timed with their launches; the others as a captured graph too.
    waits = case.rows.any_filter
    for walk in (None, False, True):
        for exact in (True, False) if walk is None else (True,):
            wrong = differences(wanted, systems.ours(case, want, exact=exact or waits, walk=walk)())
            # Without `exact` a near tie may differ; it is a difference of some of 10,000 rows, not a wrong result.
            if wrong and exact:
                raise ValueError(f"{name}: differs from the reference in {', '.join(wrong)}")
    times["ours"] = _times(systems.ours(case, want, exact=waits), flush, graph=not waits)
    times["ours-eager-exact"] = _times(systems.ours(case, want, exact=True), flush, graph=False)
    for label, walk in (("ours-split", False), ("ours-walk", True)):
        if walk and shape.nodes == 1:
            continue
        times[label] = _times(systems.ours(case, want, exact=waits, walk=walk), flush, graph=not waits)
    times["torch-passes"] = _times(systems.torch_passes(case, want), flush, graph=True)
    for label, make in (("stock", systems.stock), ("flashinfer", systems.flashinfer)):
        try:
            times[label] = _times(make(case, want), flush, graph=False)
        except systems.Unavailable as reason:
            left_out[label] = str(reason)
    floor_us = case.logits.numel() * case.logits.element_size() / rate
    return _rows(name, times, floor_us, wanted), left_out


def _rows(name: str, times: dict[str, list[float]], floor_us: float, wanted: Accepted) -> list[Row]:
    rows = [median_row(BENCH, system, name, "verify_us", values, "us") for system, values in times.items()]
    middle = {row.system: row.value for row in rows}
    rows.append(Row(BENCH, "memory", name, "floor_us", floor_us, "us"))
    rows.append(Row(BENCH, "ours", name, "over_floor", middle["ours"] / floor_us, "x"))
    for system in ("stock", "torch-passes", "flashinfer"):
        if system in middle:
            metric = f"speedup_over_{system.replace('-', '_')}"
            rows.append(Row(BENCH, "ours", name, metric, middle[system] / middle["ours"], "x"))
    rows.append(Row(BENCH, "reference", name, "accepted_tokens", float(wanted.lengths.float().mean()), "tokens"))
    return rows


def measure_mask(bs: int, nodes: int, length: int, flush: torch.Tensor) -> list[Row]:
    """Full mask, bits, positions and links of trees behind prefixes of about one length, in one launch."""
    from sglang_seer.kernels.tree_mask import tree_metadata_triton

    generator = torch.Generator().manual_seed(bs)
    parents = random_parents(bs, nodes, generator, chain=False, padding=0.05).cuda()
    seq_lens = torch.randint(length // 2, length * 3 // 2, (bs,), generator=generator)
    total = int(seq_lens.sum())
    seq_lens = seq_lens.cuda()
    wanted = tree_metadata(parents, seq_lens, with_mask=True)
    seen = tree_metadata_triton(parents, seq_lens, total)
    for field in ("mask", "bits", "positions", "retrieve_index", "retrieve_next_token", "retrieve_next_sibling"):
        if not torch.equal(getattr(wanted, field), getattr(seen, field)):
            raise ValueError(f"tree mask of {bs} requests, {nodes} nodes: {field} differs from the reference")
    rows = []
    for label, mask in (("mask", total), ("metadata", None)):
        times = _times(lambda mask=mask: tree_metadata_triton(parents, seq_lens, mask), flush, graph=True)  # type: ignore[misc]
        rows.append(median_row(BENCH, "ours", f"{label}_bs{bs}_n{nodes}_len{length}", "tree_mask_us", times, "us"))
    return rows


def measure_reference(shape: Shape, want: Logprobs) -> list[Row]:
    """The reference on a CPU."""
    case: Case = make_case(shape, seed=1)
    run = systems.reference(case, want)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1e6)
    return [median_row(BENCH, "reference-cpu", case_name(shape, want), "verify_us", times, "us")]


def _kept(path: Path | None, head: dict[str, Any]) -> list[Row]:
    """Rows of an earlier run of the same code on the same machine."""
    if path is None or not path.exists():
        return []
    earlier = json.loads(path.read_text())
    if any(earlier.get(key) != head[key] for key in ("hardware", "versions", "commit")):
        print(f"verify: {path} is of another machine, version or commit: starting anew", file=sys.stderr)
        return []
    return [Row(**row) for row in earlier["rows"]]


def _show(rows: Sequence[Row]) -> None:
    columns = ("verify_us", "over_floor", "speedup_over_stock", "speedup_over_torch_passes")
    values = {(row.case, row.metric): row.value for row in rows if row.system in ("ours", "reference-cpu")}
    names = list(dict.fromkeys(row.case for row in rows if row.metric == "verify_us"))
    lines = [
        [name, *(f"{values[name, column]:.2f}" if (name, column) in values else "-" for column in columns)]
        for name in names
    ]
    print(table("Verification", ("case", *columns), lines))
    masks = [[row.case, f"{row.value:.1f}"] for row in rows if row.metric == "tree_mask_us"]
    if masks:
        print(table("Tree masks", ("case", "us"), masks))


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark; 0 when done, 1 if a result was wrong, 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m sglang_seer bench verify", description=__doc__)
    parser.add_argument("--json", type=Path, help="keep the rows in this file; a run that was cut off goes on from it")
    parser.add_argument("--case", default="", metavar="REGEX", help="only cases whose name holds a match")
    parser.add_argument("--quick", action="store_true", help=f"only cases that match {QUICK}")
    options = parser.parse_args(argv)
    on_gpu = torch.cuda.is_available()
    head = header("python -m sglang_seer bench verify " + " ".join(argv), PACKAGES)
    if not on_gpu:
        print("verify: no CUDA device: the reference alone runs, on small shapes, and says nothing about a GPU")
    pattern = re.compile(options.case or (QUICK if options.quick and on_gpu else ""))
    rows = _kept(options.json, head)
    left_out: dict[str, str] = {}
    wrong: list[str] = []

    def keep(new: list[Row]) -> None:
        rows.extend(new)
        if options.json:
            write_json(options.json, head, rows, left_out=left_out, wrong=wrong)

    flush = timing.flush_buffer() if on_gpu else torch.empty(0)
    rate = timing.read_bytes_per_us(flush) if on_gpu else 0.0
    if on_gpu:
        head["read_gb_per_s"] = rate / 1000.0
    done = {row.case for row in rows}
    for shape, want in cases(on_gpu):
        name = case_name(shape, want)
        if name in done or not pattern.search(name):
            continue
        print(f"verify: {name}", file=sys.stderr, flush=True)
        try:
            new, missing = measure(shape, want, flush, rate) if on_gpu else (measure_reference(shape, want), {})
        except ValueError as error:
            wrong.append(str(error))
            print(f"verify: {error}", file=sys.stderr)
            continue
        except torch.cuda.OutOfMemoryError:
            left_out[name] = "the GPU's memory does not hold it"
            continue
        left_out.update(missing)
        keep(new)
    if on_gpu and not options.case:
        for bs, nodes, length in MASK_CASES:
            if f"mask_bs{bs}_n{nodes}_len{length}" not in done:
                keep(measure_mask(bs, nodes, length, flush))
    keep([])
    _show(rows)
    for system, reason in left_out.items():
        print(f"verify: {system} left out: {reason}")
    return WRONG if wrong else 0
