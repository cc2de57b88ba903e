"""Tables in README.md and docs/ against the JSON of the benchmarks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from bench.tables import blocks, command
from bench.tables.tables import TABLES

PLACE = "before\n<!-- table: a -->\nold\n<!-- /table -->\nafter\n"


@pytest.fixture
def copied(repository: Path, tmp_path: Path) -> Path:
    """README and docs in a folder of their own."""
    shutil.copy(repository / "README.md", tmp_path)
    shutil.copytree(repository / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png"))
    return tmp_path


def test_the_pages_say_what_the_json_gives(repository: Path) -> None:
    assert [str(path.relative_to(repository)) for path in command.changes(repository)] == []


def test_a_number_edited_by_hand_is_seen_and_mended(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Negative control of the test above."""
    page = copied / "README.md"
    was = page.read_text()
    page.write_text(re.sub(r"\| \d\.\d\dx \|", "| 9.99x |", was, count=1))
    assert command.main(["--check"], copied) == 1
    assert "README.md differs" in capsys.readouterr().out
    assert page.read_text() != was
    assert command.main([], copied) == 0
    assert page.read_text() == was
    assert command.main(["--check"], copied) == 0


def test_another_measurement_is_another_table(repository: Path, tmp_path: Path) -> None:
    kept = json.loads((repository / "bench/results/rollout_crowded_cpu.json").read_text())
    for row in kept["rows"]:
        if (row["system"], row["metric"]) == ("drop-in", "samples_identical"):
            row["value"] -= 1
    (tmp_path / "rollout_crowded_cpu.json").write_text(json.dumps(kept))
    assert "383 of 384" in command.render("crowded", tmp_path)
    assert "383 of 384" not in command.render("crowded")


def test_the_demo_s_ratio_is_that_of_its_samples(repository: Path) -> None:
    """From the times of the kept samples, by another way than the table's."""
    kept = json.loads((repository / "bench/results/demo_cpu.json").read_text())

    def rate(side: str) -> float:
        runs = [sample[side] for sample in kept["samples"]]
        seconds = max(run["finished_s"] for run in runs) - min(run["submitted_s"] for run in runs)
        return sum(run["output_tokens"] for run in runs) / seconds

    (line,) = (one for one in command.render("demo").splitlines() if one.startswith("| tokens/s"))
    assert [cell.strip() for cell in line.split("|")[2:5]] == [
        f"{rate('stock'):,.0f}",
        f"{rate('seer'):,.0f}",
        f"{rate('seer') / rate('stock'):.2f}x",
    ]


def test_what_was_measured_has_a_place_and_a_command_of_its_benchmark(repository: Path) -> None:
    """A table may wait for its first measurement."""
    placed = [name for path in command.pages(repository) for name in blocks.names(path.read_text())]
    measured = {name for name, table in TABLES.items() if (repository / "bench/results" / table.file).is_file()}
    assert set(placed) == measured
    for name in measured:
        table = TABLES[name]
        kept = json.loads((repository / "bench/results" / table.file).read_text())
        made_by = kept.get("command", "./run demo")
        wanted = table.command.split()[: 4 if "bench" in table.command else 2]
        assert made_by.split()[: len(wanted)] == wanted, name


def test_a_table_that_is_not_known_and_json_that_is_not_there(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "docs" / "more.md").write_text("<!-- table: nothing -->\n<!-- /table -->\n")
    assert command.main([], copied) == 2
    error = capsys.readouterr().err
    assert "docs/more.md" in error and "'nothing'" in error and "crowded" in error
    with pytest.raises(ValueError, match=r"sim\.json.*wanted the JSON of a benchmark"):
        command.render("sim", tmp_path)
    (tmp_path / "sim.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="wanted a row of 'divided'"):
        command.render("sim", tmp_path)


def test_places_are_filled_again_and_again() -> None:
    once = blocks.filled(PLACE, lambda name: f"table {name}")
    assert once == "before\n<!-- table: a -->\ntable a\n<!-- /table -->\nafter\n"
    assert blocks.filled(once, lambda name: f"table {name}") == once


@pytest.mark.parametrize(
    "page", ["<!-- table: a -->\n", "<!-- table: a -->\n" + PLACE, "<!-- /table -->\n", PLACE + "<!-- /table -->\n"]
)
def test_a_place_without_its_other_end_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="saw none"):
        blocks.filled(page, str)


def test_the_list_names_each_json_and_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(TABLES)
    assert all("bench/results/" in line and re.search(r": (python|\./run|pytest) ", line) for line in lines)


def test_a_partial_rollout_is_said_to_return_shorter_samples(tmp_path: Path, repository: Path) -> None:
    kept = json.loads((repository / "bench/results/rollout_crowded_cpu.json").read_text())
    for row in kept["rows"]:
        row["system"] = {"drop-in": "partial"}.get(row["system"], row["system"])
    length = {"bench": "rollout", "system": "partial", "case": "crowded", "metric": "mean_length_over_fcfs"}
    kept["rows"].append({**length, "value": 0.62, "unit": "1", "spread": None})
    (tmp_path / "rollout_crowded_cpu.json").write_text(json.dumps(kept))
    (line,) = (line for line in command.render("crowded", tmp_path).splitlines() if "partial rollout" in line)
    assert "(samples 0.62 times as long)" in line and "384 of 384" not in line
