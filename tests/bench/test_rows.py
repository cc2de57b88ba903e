"""The row format that all benchmarks share."""

import json
from pathlib import Path

import pytest

from bench.rows import Row, header, median_row, table, write_json


def test_the_file_holds_header_and_rows(tmp_path: Path) -> None:
    rows = [Row("draft", "seer", "set/tree8", "acceptance", 2.5, "tokens/step", {"groups": 3}), Row(*"abcd", 1.0, "e")]
    path = tmp_path / "new" / "rows.json"
    write_json(path, header("command", ["numpy", "no-such-package"]), rows, curves={"a": [1]})
    kept = json.loads(path.read_text())
    assert kept["rows"][0] == {
        "bench": "draft",
        "system": "seer",
        "case": "set/tree8",
        "metric": "acceptance",
        "value": 2.5,
        "unit": "tokens/step",
        "spread": {"groups": 3},
    }
    assert kept["rows"][1]["spread"] is None
    assert kept["curves"] == {"a": [1]}
    assert kept["hardware"]["cores"] >= 1
    assert kept["versions"]["numpy"][0].isdigit()
    assert kept["versions"]["no-such-package"] is None


def test_a_number_that_json_cannot_hold_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "rows.json", {}, [Row(*"abcd", float("nan"), "e")])


@pytest.mark.parametrize(("values", "median"), [([3.0], 3.0), ([5.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 2.0, 9.0], 3.0)])
def test_median_and_spread(values: list[float], median: float) -> None:
    row = median_row("b", "s", "c", "m", values, "us")
    assert row.value == median
    assert row.spread == {"min": min(values), "max": max(values), "repetitions": len(values)}


def test_no_measurement_is_an_error() -> None:
    with pytest.raises(ValueError, match="saw none"):
        median_row("b", "s", "c", "m", [], "us")


def test_a_table_is_markdown() -> None:
    assert table("Title", ["name", "us"], [["a", "1.0"], ["longer", "10.25"]]).splitlines() == [
        "### Title",
        "",
        "| name   |    us |",
        "|--------|------:|",
        "| a      |   1.0 |",
        "| longer | 10.25 |",
    ]


def test_a_ragged_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="wanted 2 cells"):
        table("Title", ["name", "us"], [["a"]])
