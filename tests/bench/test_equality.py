"""bench equality: where samples part, by how much, and that an engine which draws otherwise is found."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from bench.equality import command, margins
from bench.rows import ROOT
from sglang_seer.verify import gumbel_noise


@pytest.mark.parametrize(
    ("stock", "seer", "place"),
    [([1, 2], [1, 2], None), ([1, 2, 3], [1, 4, 3], 1), ([1, 2], [1, 2, 3], 2), ([], [1], 0)],
)
def test_where_samples_part(stock: list[int], seer: list[int], place: int | None) -> None:
    assert margins.first_difference(stock, seer) == place


def test_the_margin_is_that_of_the_scores_that_decide() -> None:
    logprobs = torch.log_softmax(torch.randn(50, generator=torch.Generator().manual_seed(1)), 0)
    scores = logprobs + gumbel_noise(torch.tensor([77]), torch.tensor([123]), 50)[0]
    drawn, other = scores.topk(2).indices.tolist()
    told = {token: float(logprobs[token]) for token in (drawn, other)}
    margin = margins.margin_of(told, drawn, other, seed=77, position=123, greedy=False)
    assert margin == pytest.approx(float(scores[drawn] - scores[other]), abs=1e-6) and margin > 0
    greedy = margins.margin_of(told, drawn, other, seed=77, position=123, greedy=True)
    assert greedy == pytest.approx(told[drawn] - told[other])


# Runs in Seer's engine before anything else.
OTHER_SEEDS = """
from dataclasses import replace
from sglang_seer_cpu.import_hooks import after_import
def plant(module):
    rows = module.SeerWorker._sampling_rows
    def moved(self, batch):
        found = rows(self, batch)
        return replace(found, seeds=found.seeds + 1)
    module.SeerWorker._sampling_rows = moved
after_import("sglang_seer.engine.worker", plant)
"""


def test_an_engine_that_draws_otherwise_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stock's token won wherever its samples part from another's: else the margin is not that of its noise."""
    (tmp_path / "sitecustomize.py").write_text(OTHER_SEEDS)
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setitem(command.SIDES, "seer", (command.SIDES["seer"][0], {"PYTHONPATH": path}))
    file = tmp_path / "rows.json"
    argv = ["--prompts", "3", "--n", "4", "--limit", "60", "--settings", "overlap", "--json", str(file)]
    assert command.main(argv) == 1
    assert "differs from token" in capsys.readouterr().err
    kept = json.loads(file.read_text())
    value = {(row["case"], row["metric"]): row["value"] for row in kept["rows"]}
    # The first token is the prefill's, which draws as ever; greedy samples know no seed.
    assert value["overlap, sampled", "samples_identical"] < 4
    assert value["overlap, greedy", "samples_identical"] == 3
    found = [one["margin"] for one in kept["differences"] if one["margin"] is not None]
    assert len(found) > 6 and min(found) > 0 and max(found) > 0.5
    assert {one["place"] for one in kept["differences"]}.isdisjoint({0})


@pytest.mark.parametrize(
    ("argv", "said"), [(["--n", "0"], "--n: wanted at least 1"), (["--settings", "overlap/none"], "saw 'none'")]
)
def test_bad_arguments(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(argv)
    assert said in capsys.readouterr().err
