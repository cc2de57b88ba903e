"""Table, picture, kept file and the command that reads it."""

import re
from pathlib import Path

import pytest

from sglang_seer.report import kept, picture
from sglang_seer.report.command import main
from sglang_seer.report.figures import figures
from sglang_seer.report.table import table
from sglang_seer.rollout.records import Load
from tests.report.timelines import comparison, run

PNG = b"\x89PNG\r\n\x1a\n"


def two_sides() -> kept.Comparison:
    return comparison([run(2.0), run(8.0, retractions=3)], [run(2.0), run(4.0, verify_steps=4)], different=[0])


def test_the_table_shows_both_sides() -> None:
    lines = table(figures(two_sides())).splitlines()
    assert lines[0].split() == ["stock", "Seer", "ratio"]
    rows = {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", line) for line in lines[2:-1])}
    assert rows["seconds"] == ["8.0", "4.0", "0.50x"]
    assert rows["retractions"] == ["3", "0"]
    assert rows["acceptance length (bonus included)"] == ["1.00", "2.50"]
    assert lines[-1] == "samples identical to stock: 1 of 2"


def test_the_table_shows_what_is_unknown_as_a_dash() -> None:
    numbers = figures(comparison([run(1.0, retractions=None)], [run(1.0)]))
    (line,) = (line for line in table(numbers).splitlines() if line.startswith("retractions"))
    assert line.split() == ["retractions", "-", "0"]


def test_running_and_waiting_add_up_to_what_is_open() -> None:
    loads = [Load(at_s=at, running=2, waiting=1, used_tokens=0, capacity_tokens=1) for at in (0.5, 2.5, 9.0)]
    times, running, waiting = picture.concurrency([run(1.0), run(2.0), run(3.0)], loads)
    assert times == [0.0, 0.5, 1.0, 2.0, 2.5, 3.0]
    assert [sum(pair) for pair in zip(running, waiting, strict=True)] == [3, 3, 2, 1, 1, 0]
    assert running == [0, 2, 2, 1, 1, 0]


def test_a_kept_file_comes_back_and_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = two_sides()
    file, png = tmp_path / "kept.json", tmp_path / "out.png"
    kept.write(file, before, figures(before))
    assert kept.read(file) == before
    assert main([str(file), "--picture", str(png)]) == 0
    assert "samples identical to stock: 1 of 2" in capsys.readouterr().out
    assert png.read_bytes().startswith(PNG)


@pytest.mark.parametrize("content", [None, "no JSON", '{"samples": 1}'])
def test_a_file_that_is_none_is_named(content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kept.json"
    if content is not None:
        file.write_text(content)
    assert main([str(file)]) == 2
    error = capsys.readouterr().err
    assert str(file) in error and "demo --json" in error


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted a file to write the picture to"):
        picture.draw(two_sides(), tmp_path / "no_folder" / "out.png")
    with pytest.raises(ValueError, match="not supported"):
        picture.draw(two_sides(), tmp_path / "out.nothing")
