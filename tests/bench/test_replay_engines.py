"""bench replay: the record, and real engines that generate it whatever their model says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.draft import synthetic
from bench.replay import command, engine, record
from bench.replay.model import EOS_ID, SHAPES
from sglang_seer.rollout.records import Generation
from sglang_seer.rollout.synchronous import Rollout


def test_responses_are_cut_and_ended() -> None:
    groups = synthetic.groups(count=2, siblings=3, mean_tokens=50)
    made = record.responses(groups, samples=2, limit=20, tail=None)
    assert sorted(made) == ["g0/0", "g0/1", "g1/0", "g1/1"]
    for name, tokens in made.items():
        group, sample = int(name[1]), int(name[3])
        recorded = groups[group].responses[sample].tokens[:19]
        assert tokens.tolist() == [*recorded.tolist(), EOS_ID]
    with pytest.raises(ValueError, match="group 0: wanted 4 responses, saw 3"):
        record.responses(groups, samples=4, limit=20, tail=None)


def test_a_long_tail_is_alike_within_groups() -> None:
    tail = record.LongTail(mean_tokens=300, sigma=1.0, correlation=0.85)
    logs = np.log(tail.lengths(400, 16, seed=1))
    assert np.exp(logs).mean() == pytest.approx(300, rel=0.2)
    assert logs.mean(axis=1).var() / logs.var() == pytest.approx(0.85, abs=0.05)
    groups = synthetic.groups(count=3, siblings=2, mean_tokens=20)
    made = record.responses(groups, samples=2, limit=10_000, tail=tail, seed=1)
    wanted = tail.lengths(3, 2, 1)
    assert [len(made[f"g{g}/{s}"]) - 1 for g in range(3) for s in range(2)] == wanted.reshape(-1).tolist()
    # It begins as recorded, and goes on as its sibling does.
    first, second = (one.tokens.tolist() for one in groups[0].responses)
    assert made["g0/1"].tolist()[: len(second) + 3] == (second + first)[: len(second) + 3]


def test_each_row_is_forced_to_its_position(tmp_path: Path) -> None:
    """Decoding and trees; rows of requests without a record stay as they are."""
    record.write(tmp_path / "record.npz", {"g/1": np.array([7, 8, 9], dtype=np.int32)})
    table = engine.Table(tmp_path / "record.npz")
    pool = SimpleNamespace(req_to_token=torch.zeros(4, 16, dtype=torch.int32))

    def request(hint: dict[str, object]) -> SimpleNamespace:
        return SimpleNamespace(sampling_params=SimpleNamespace(custom_params={"seer": hint}))

    known = request({"group": "g", "sample": 1, "prompt_len": 5})
    unknown = request({"group": "h", "sample": 1, "prompt_len": 5})
    entering = SimpleNamespace(reqs=[known, unknown], req_pool_indices=torch.tensor([2, 3]))
    table.enter(entering, SimpleNamespace(req_to_token_pool=pool))

    def batch(verify: bool, **more: torch.Tensor) -> SimpleNamespace:
        mode = SimpleNamespace(is_target_verify=lambda: verify)
        return SimpleNamespace(req_pool_indices=torch.tensor([2, 3]), forward_mode=mode, **more)

    logits = torch.randn(2, 20)
    untouched = logits[1].clone()
    table.force(logits, batch(False, seq_lens=torch.tensor([6, 6])))
    assert logits[0].argmax() == 8 and torch.equal(logits[1], untouched)
    # A root at position 4, and two nodes at 5: after each of them 8 follows, after the root 7.
    nodes = torch.randn(6, 20)
    table.force(nodes, batch(True, positions=torch.tensor([4, 5, 5, 4, 5, 5])))
    assert nodes[:3].argmax(1).tolist() == [7, 8, 8] and nodes[3:].max() < engine.LOUD


def test_samples_that_are_not_the_record_are_counted() -> None:
    generation = Generation(
        group="g0", sample=0, output_ids=[1, 2], finish_reason="stop", prompt_tokens=1, submitted_s=0.0, first_s=None,
        finished_s=1.0, retractions=0, verify_steps=0,
    )  # fmt: skip
    rollouts = {"seer": [Rollout(generations=[generation], loads=[])]}
    assert command.not_recorded(rollouts, {"g0/0": np.array([1, 2], dtype=np.int32)}) == {}
    assert command.not_recorded(rollouts, {"g0/0": np.array([1, 3], dtype=np.int32)}) == {"seer": 1}


def test_real_engines_generate_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stock decoding, stock speculation and Seer, with drafts that are accepted; nobody else knows the record."""
    file = tmp_path / "rows.json"
    argv = ["--prompts", "2", "--n", "4", "--limit", "120", "--running", "4", "--systems", "ngram,drop-in"]
    assert command.main([*argv, "--repetitions", "1", "--json", str(file)]) == 0, capsys.readouterr().err
    kept = json.loads(file.read_text())
    value = {(row["system"], row["metric"]): row["value"] for row in kept["rows"]}
    assert {value[system, "samples_identical"] for system in ("fcfs", "ngram", "drop-in")} == {8}
    assert value["ngram", "acceptance_length"] > 1.0 and value["drop-in", "acceptance_length"] > 1.0
    assert "Random weights" in kept["not_shown"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [(["--n", "0"], "--n: wanted at least 1, saw 0"), (["--systems", "none"], "saw 'none'")],
)
def test_bad_arguments(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(argv)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_too_few_responses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--data", str(tmp_path), "--n", "4"]) == 2
    assert "wanted at least one *.jsonl.zst file" in capsys.readouterr().err
    assert set(SHAPES) == {"tiny", "0.6b", "8b", "32b"}
