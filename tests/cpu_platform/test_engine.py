"""SGLang's engine as it is, on the CPU platform."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cpu_platform.conftest import GREEDY, PROMPTS, TOP_TWO, Run
from tests.cpu_platform.engines import PLATFORM, Answers, Batch, logprobs, tokens

# 24 samples need about 3000 tokens; the difference waits or is retracted.
SMALL_POOL_TOKENS = 1536
START_TIMEOUT_S = 240.0


def test_a_seeded_sample_does_not_depend_on_its_batch(plain: Answers) -> None:
    together, alone = tokens(plain[1]), [tokens(answers)[0] for answers in plain[2:]]
    assert alone == together[: len(alone)]
    assert len({tuple(sample) for sample in together}) == len(together)


def test_greedy_output_varies(plain: Answers) -> None:
    """Equal tokens prove something only if the model does not repeat itself: here half of a sample is new."""
    samples = tokens(plain[0])
    assert sum(len(set(sample)) for sample in samples) > 0.3 * sum(map(len, samples))


def test_pages_chunks_and_retraction_change_no_bit(plain: Answers, run: Run) -> None:
    """The other engine also scores the first one's samples by prefill and hits its prefix cache."""
    whole = [prompt + sample for prompt, sample in zip(PROMPTS, tokens(plain[0]), strict=True)]
    scoring = Batch(whole, [{"max_new_tokens": 1, "temperature": 0}] * len(whole), {**TOP_TWO, "logprob_start_len": 0})
    # The last prompts scored are the ones that the pool still holds.
    greedy, scored, again = run(
        [GREEDY, scoring, Batch(whole[-4:], scoring.sampling_params[:4])],
        page_size=16,
        chunked_prefill_size=32,
        disable_overlap_schedule=True,
        max_total_tokens=SMALL_POOL_TOKENS,
        schedule_conservativeness=0.1,
    )
    assert sum(answer["meta_info"]["num_retractions"] for answer in greedy) > 0
    assert tokens(greedy) == tokens(plain[0])
    by_decode = logprobs(plain[0])
    by_prefill = [
        [[entry[0] for entry in token] for token in answer["meta_info"]["input_top_logprobs"][len(prompt) :]]
        for answer, prompt in zip(scored, PROMPTS, strict=True)
    ]
    assert by_prefill == by_decode
    assert any(answer["meta_info"]["cached_tokens"] >= 16 for answer in again)


@pytest.fixture
def server(model: Path, tmp_path: Path, free_port: int) -> Iterator[str]:
    """The address of `sglang.launch_server`, with no flag for the CPU."""
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(model), "--skip-tokenizer-init"]
    command += ["--host", "127.0.0.1", "--port", str(free_port), "--log-level", "warning"]
    log = tmp_path / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, **PLATFORM}, stdout=stream, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{free_port}"
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _is_healthy(url):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _open(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=120)


def _post(url: str, body: dict[str, Any]) -> bytes:
    with _open(url, body) as response:
        data: bytes = response.read()
    return data


def test_the_server_answers_and_aborts(server: str, plain: Answers) -> None:
    body = {"input_ids": PROMPTS[0], "sampling_params": GREEDY.sampling_params[0]}
    assert json.loads(_post(server + "/generate", body))["output_ids"] == tokens(plain[0])[0]
    endless = {"temperature": 0, "max_new_tokens": 3000, "ignore_eos": True}
    body = {"rid": "one", "input_ids": PROMPTS[0], "sampling_params": endless, "stream": True}
    with _open(server + "/generate", body) as answer:
        # It runs.
        events = [answer.readline()]
        _post(server + "/abort_request", {"rid": "one"})
        events += [line for line in answer if line.startswith(b"data: {")]
    meta = json.loads(events[-1].removeprefix(b"data: "))["meta_info"]
    assert meta["finish_reason"]["type"] == "abort"
    assert meta["completion_tokens"] < 3000
