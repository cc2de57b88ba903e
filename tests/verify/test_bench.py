"""The benchmark's command on a CPU: it says what it is, keeps rows, goes on where it was, and sees a wrong result."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from bench.verify.cases import Shape, make_case
from bench.verify.command import differences, main
from bench.verify.systems import Unavailable, flashinfer, reference, reference_in_pieces, torch_passes
from sglang_seer.verify import Logprobs


def test_rows_are_kept_and_not_measured_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.fail("this test is of machines without a GPU")
    path = tmp_path / "rows.json"
    assert main(["--json", str(path), "--case", "bs1_n1_v2048_t1"]) == 0
    assert "the reference alone runs" in capsys.readouterr().out
    first = json.loads(path.read_text())
    assert {row["case"] for row in first["rows"]} == {"bs1_n1_v2048_t1", "bs1_n1_v2048_t1_logprob"}
    assert {(row["system"], row["metric"], row["unit"]) for row in first["rows"]} == {
        ("reference-cpu", "verify_us", "us")
    }
    assert main(["--json", str(path), "--case", "bs1_n1_v2048"]) == 0
    second = json.loads(path.read_text())
    assert second["rows"][:2] == first["rows"] and len(second["rows"]) == 4
    # Another machine's rows are not mixed with these.
    first["hardware"] = {}
    path.write_text(json.dumps(first))
    assert main(["--json", str(path), "--case", "bs1_n1_v2048_greedy"]) == 0
    assert len(json.loads(path.read_text())["rows"]) == 1


def test_a_wrong_result_is_seen() -> None:
    case = make_case(Shape(bs=3, nodes=4, vocab=90, kind="t1"), 1)
    want = Logprobs(tempered=True)
    wanted = reference(case, want)()
    assert differences(wanted, reference_in_pieces(case, want)) == []
    assert wanted.logprobs is not None
    shifted = dataclasses.replace(wanted, logprobs=wanted.logprobs + 1e-3)
    assert differences(wanted, shifted) == ["logprobs (by 0.001)"]
    assert differences(wanted, dataclasses.replace(wanted, tokens=wanted.tokens + 1)) == ["tokens"]


def test_what_stock_passes_compute() -> None:
    """The passes end in the log-probabilities of the drafted tokens, so nothing of them is left out."""
    case = make_case(Shape(bs=2, nodes=3, vocab=90, kind="temperature"), 1)
    seen = torch_passes(case, Logprobs(tempered=True))()
    logprobs = torch.log_softmax(case.logits / case.rows.repeat(3).temperatures[:, None], dim=-1)
    assert torch.equal(seen, logprobs.gather(1, case.draft_tokens.flatten().long()[:, None]))


def test_a_system_that_cannot_serve_a_case_says_so() -> None:
    case = make_case(Shape(bs=1, nodes=1, vocab=90, kind="greedy"), 1)
    with pytest.raises(Unavailable, match="flashinfer"):
        flashinfer(case, Logprobs())
