"""SGLang's hierarchical KV cache on the CPU platform: what comes back from a lower tier is what went there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cpu_platform.conftest import GREEDY, PROMPTS, TOP_TWO, Run
from tests.cpu_platform.engines import Answers, Batch, logprobs, tokens

HALF = 40
BEGIN = Batch(PROMPTS, [{**sampling, "max_new_tokens": HALF} for sampling in GREEDY.sampling_params], TOP_TWO)
PAGE = 16
TIERED = {"enable_hierarchical_cache": True, "page_size": PAGE, "hicache_write_policy": "write_through"}
# 24 samples need about 3000 tokens; what was evicted comes back from host memory.
SMALL_POOL_TOKENS = 1536
HOST_ONLY = {**TIERED, "max_total_tokens": SMALL_POOL_TOKENS, "hicache_ratio": 4.0, "hicache_mem_layout": "layer_first"}
# Copies every token to its neighbour's place.
SHIFTED = """
import sglang.srt.mem_cache.pool_host.mha as mha
def transfer_kv_direct(src_layers, dst_layers, src_indices, dst_indices, page_size):
    for src, dst in zip(src_layers, dst_layers, strict=True):
        dst[dst_indices] = src[src_indices.roll(1)]
mha.transfer_kv_direct = transfer_kv_direct
"""


def rest(plain: Answers) -> Batch:
    """Goes on where BEGIN ended."""
    whole = [prompt + sample[:HALF] for prompt, sample in zip(PROMPTS, tokens(plain[0]), strict=True)]
    left = [{**one, "max_new_tokens": one["max_new_tokens"] - HALF} for one in GREEDY.sampling_params]
    return Batch(whole, left, TOP_TWO)


def cached(answers: list[dict[str, Any]], tier: str) -> int:
    """Tokens that came from there."""
    return sum((answer["meta_info"].get("cached_tokens_details") or {}).get(tier, 0) for answer in answers)


def assert_goes_on(plain: Answers, begun: list[dict[str, Any]], ended: list[dict[str, Any]]) -> None:
    joined = [first + second for first, second in zip(tokens(begun), tokens(ended), strict=True)]
    assert joined == tokens(plain[0])
    assert [a + b for a, b in zip(logprobs(begun), logprobs(ended), strict=True)] == logprobs(plain[0])


def test_what_was_evicted_comes_back_from_host_memory(plain: Answers, run: Run) -> None:
    begun, ended = run([BEGIN, rest(plain)], **HOST_ONLY)
    assert cached(ended, "host") > 10 * PAGE
    assert_goes_on(plain, begun, ended)


def test_a_copy_to_the_wrong_place_is_seen(plain: Answers, run: Run) -> None:
    begun, ended = run([BEGIN, rest(plain)], mutant=SHIFTED, **HOST_ONLY)
    with pytest.raises(AssertionError):
        assert_goes_on(plain, begun, ended)


def test_another_process_reads_what_was_stored(plain: Answers, run: Run, tmp_path: Path) -> None:
    stored = {
        **TIERED,
        "hicache_storage_backend": "file",
        "hicache_storage_prefetch_policy": "wait_complete",
        "hicache_storage_backend_extra_config": json.dumps(
            {"file_storage_path": str(tmp_path / "kv"), "prefetch_threshold": PAGE}
        ),
    }
    (begun,) = run([BEGIN], **stored)
    (ended,) = run([rest(plain)], **stored)
    assert cached(ended, "storage") > 0.5 * sum(map(len, rest(plain).input_ids))
    assert_goes_on(plain, begun, ended)
