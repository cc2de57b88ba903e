"""The command from end to end, without peers, and the way to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.draft import command, figures, pairs, scale, synthetic, systems
from bench.draft.calibration import Calibration
from bench.draft.drafter import SHAPES, Config, PeerUnavailable, Shape
from bench.draft.replay import Counts, Outcome
from bench.draft.settings import Settings
from bench.draft.systems import seer
from bench.rows import Row
from sglang_seer import bench
from tests.bench import traces_of

CHAIN8, TREE8, TREE16, _ = SHAPES
OURS, THEIRS = seer.CONFIGS[0], Config("arctic", "best", {})
SMALL = Settings(
    tokens=300,
    tokenizer_chars=10_000,
    shapes=("chain8", "tree8"),
    peers=(THEIRS,),
    timed_peers=(THEIRS,),
    cases=(scale.Case("tiny", groups=2, siblings=2, tokens=20, steps=2),),
    siblings=4,
)


@pytest.fixture
def without_peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make = systems.make

    def only_ours(config: Config, shape: Shape, **sizes: Any) -> Any:
        if config.system != "seer":
            raise PeerUnavailable(f"no {config.system} here")
        return make(config, shape, **sizes)

    monkeypatch.setattr(systems, "make", only_ours)
    monkeypatch.setattr(command, "QUICK", SMALL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_without_peers_ours_is_measured_and_the_gap_is_loud(
    without_peers: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    traces_of.write(data / "small.jsonl.zst", traces_of.rows(6, 4))
    out, plots = tmp_path / "rows.json", tmp_path / "plots"
    code = command.main(["--quick", "--data", str(data), "--json", str(out), "--plots", str(plots)])
    assert code == 0
    kept = json.loads(out.read_text())
    assert kept["missing_peers"] == {"arctic": "no arctic here", "sglang_ngram": "no sglang_ngram here"}
    printed = capsys.readouterr()
    # Before the long work and after it.
    assert printed.err.count("PEER MISSING, its rows are left out: no arctic here") == 2
    assert {row["system"] for row in kept["rows"]} == {"seer"}
    assert {(row["bench"], *sorted(row)) for row in kept["rows"]} == {
        ("draft", "bench", "case", "metric", "spread", "system", "unit", "value")
    }
    cases = {row["case"] for row in kept["rows"] if row["metric"] == "acceptance"}
    configs = [config.name for config in seer.CONFIGS]
    sets = ("small", "generated", "mean")
    assert cases == {f"{name}/{shape}/{config}" for name in sets for shape in SMALL.shapes for config in configs}
    metrics = {row["metric"] for row in kept["rows"]}
    assert metrics >= {
        *("acceptance", "accepted_share", "calibration_error", "draft_us_per_request", "draft_us_p99"),
        *("append_us_per_token", "bytes_per_token", "worst_stall_ms", "worst_drop_group_ms"),
    }
    assert {path.name for path in plots.iterdir()} == {"acceptance.png", "calibration.png", "draft_time.png"}
    assert kept["calibration_curves"]["seer/small/tree8/default/node"]


def test_required_peers_that_are_missing_are_an_error_of_their_own(without_peers: None) -> None:
    assert command.main(["--quick", "--require-peers"]) == 3


def test_replays_are_the_same_every_time(without_peers: None, tmp_path: Path) -> None:
    rows = []
    for name in ("a.json", "b.json"):
        assert command.main(["--quick", "--part", "acceptance", "--json", str(tmp_path / name)]) == 0
        rows.append(json.loads((tmp_path / name).read_text())["rows"])
    assert rows[0] == rows[1] != []


def test_bad_data_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--data", str(tmp_path)]) == 2
    assert "wanted at least one *.jsonl.zst file" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--tokens", "-1"], ["--part", "none"]])
def test_bad_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    case = SMALL.cases[0]
    path = tmp_path / "case.npy"
    scale.write(case, [], None, path, shapes=1)
    unknown = Config("seer", "broken", {"no_such_option": 1})
    with pytest.raises(RuntimeError, match="no_such_option"):
        pairs.measure([unknown], [TREE8], case, path, synthetic.VOCAB_SIZE)


def replayed(name: str, config: Config, shape: Shape, acceptance: float, real: bool = True) -> figures.Replayed:
    outcome = Outcome([Counts(100, round(100 * acceptance), 800, 50)], Calibration(), Calibration())
    return figures.Replayed(name, real, config, shape, outcome)


def test_the_best_peer_of_each_set_counts_at_equal_nodes() -> None:
    other = Config("sglang_ngram", "wide", {})
    replays = [
        replayed("a", OURS, TREE8, 2.2),
        replayed("a", THEIRS, TREE8, 1.9),
        # A chain of as many nodes is a tree of as many nodes.
        replayed("a", THEIRS, CHAIN8, 2.0),
        replayed("a", other, TREE16, 3.0),
        replayed("b", OURS, TREE8, 1.5),
        replayed("b", other, TREE8, 2.0),
        # A tree is no chain.
        replayed("b", OURS, CHAIN8, 1.4),
        replayed("g", OURS, TREE8, 9.0, real=False),
        replayed("g", other, TREE8, 1.0, real=False),
    ]
    duels = figures.versus(replays, OURS)
    assert [(d.set, d.peer.config.system, d.peer.shape.name, round(d.ratio, 4)) for d in duels] == [
        ("a", "arctic", "chain8", 1.1),
        ("b", "sglang_ngram", "tree8", 0.75),
        ("g", "sglang_ngram", "tree8", 9.0),
    ]
    # Generated text is no part of the mean.
    (mean,) = [row for row in figures.versus_rows(duels) if row.case.startswith("mean/")]
    assert mean.value == pytest.approx((1.1 + 0.75) / 2)


def test_means_are_of_one_system_and_of_real_sets() -> None:
    namesake = Config("sglang_ngram", THEIRS.name, {})
    replays = [
        replayed("a", THEIRS, TREE8, 2.0),
        replayed("b", THEIRS, TREE8, 3.0),
        replayed("g", THEIRS, TREE8, 9.0, real=False),
        replayed("a", namesake, TREE8, 1.0),
    ]
    means = [row for row in figures.acceptance_rows(replays) if row.case.startswith("mean/")]
    assert [(row.system, row.value) for row in means] == [("arctic", 2.5), ("sglang_ngram", 1.0)]
    # Without traces the generated sets are all there is.
    alone = figures.acceptance_rows([replayed("g", THEIRS, TREE8, 9.0, real=False)])
    assert [row.value for row in alone if row.case.startswith("mean/")] == [9.0]


def test_gains_are_over_the_cheapest_configuration_of_each_peer() -> None:
    def row(system: str, case: str, value: float) -> Row:
        return Row("draft", system, case, "draft_us_per_request", value, "us")

    rows = [
        row("seer", f"big/tree8/{OURS.name}", 2.0),
        row("arctic", "big/tree8/slow", 100.0),
        row("arctic", "big/tree8/fast", 30.0),
        row("arctic", "big/tree32/fast", 1.0),
        row("sglang_ngram", "big/tree8/one", 50.0),
    ]
    gains = {gain.case: gain.value for gain in figures.gain_rows(rows, OURS)}
    assert gains == {
        f"big/tree8/{OURS.name} over arctic/fast": 15.0,
        f"big/tree8/{OURS.name} over sglang_ngram/one": 25.0,
    }


def test_the_way_to_the_benchmarks(repository: Path) -> None:
    command_ = [sys.executable, "-m", "sglang_seer", "bench", "draft", "--help"]
    done = subprocess.run(command_, cwd=repository, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "--require-peers" in done.stdout


@pytest.mark.parametrize("argv", [[], ["nothing"], ["rows"], ["micro"], ["../run"]])
def test_an_unknown_benchmark(argv: list[str], repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(argv, root=repository) == 2
    assert "draft" in capsys.readouterr().err


def test_a_wheel_has_no_benchmarks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["draft"], root=tmp_path) == 2
    (tmp_path / "bench" / "draft").mkdir(parents=True)
    (tmp_path / "bench" / "draft" / "__init__.py").touch()
    # A stranger's folder of that name.
    assert bench.main(["draft"], root=tmp_path) == 2
    assert capsys.readouterr().err.count("part of the repository") == 2
