"""The report command on run files: real ones of a rollout on stand-in engines, and files that are none."""

import asyncio
from pathlib import Path

import pytest

from bench.controller.stub import Behaviour, Stub
from sglang_seer.report import history
from sglang_seer.report.command import main
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.controller import RolloutController
from sglang_seer.rollout.events import EventLog
from sglang_seer.rollout.samples import Prompt, Sample
from tests.report.browser import visit
from tests.report.run_files import known_run, write_run
from tests.report.test_output import two_sides
from tests.rollout.fleet_of_stubs import until

LIMIT = 120


def prompts() -> list[Prompt]:
    sampling = {"max_new_tokens": LIMIT}
    return [Prompt(group=f"g{number}", input_ids=[7] * 5, samples=4, sampling=sampling) for number in range(6)]


async def roll_out(path: Path, *, kill: bool) -> list[Sample]:
    """A recorded rollout on two stand-ins, of which one may die in mid-chunk."""
    engines = [Stub(Behaviour(mean_tokens=80, seconds_per_token=0.002, capacity_tokens=1000)) for _ in range(2)]
    urls = [await engine.start() for engine in engines]
    config = RolloutConfig(chunk_tokens=32, stream_tokens=4, poll_s=0.05, silent_s=0.3)
    with EventLog(path, {"chunk_tokens": 32}) as log:
        async with RolloutController(urls, config=config, events=log) as controller:
            samples = []
            async for sample in controller.samples(prompts()):
                samples.append(sample)
                if kill and len(samples) == 4:
                    await until(lambda: bool(engines[0].running))
                    await engines[0].kill()
                    await until(lambda: controller.buffer.up == {urls[1]})
    for engine in engines:
        await engine.kill()
    return samples


def test_what_a_rollout_recorded(tmp_path: Path) -> None:
    samples = asyncio.run(roll_out(tmp_path / "run.jsonl", kill=True))
    run = history.read(tmp_path / "run.jsonl")
    assert run.whole
    assert {(one.group, one.sample): one.output_tokens for one in run.ended} == {
        (sample.group, sample.sample): len(sample.output_ids) for sample in samples
    }
    # Chunks of samples are in the order in which they ended, as in the file.
    for sample in samples:
        told = [chunk for chunk in run.chunks if (chunk.group, chunk.sample) == (sample.group, sample.sample)]
        assert [(chunk.engine, chunk.tokens, chunk.end) for chunk in told] == [
            (chunk.engine, chunk.tokens, chunk.end) for chunk in sample.chunks
        ]
    moves = sum(
        before.engine != after.engine
        for sample in samples
        for before, after in zip(sample.chunks, sample.chunks[1:], strict=False)
    )
    assert len(run.migrations) == moves > 0
    assert {"engine failed"} <= {move.cause for move in run.migrations}
    dead = next(state.engine for state in run.states if state.state == "down")
    assert run.down(dead)[0][1] == run.end_s


def test_the_page_of_a_rollout_in_a_browser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, kill in (("run", True), ("base", False)):
        asyncio.run(roll_out(tmp_path / f"{name}.jsonl", kill=kill))
    assert main([str(tmp_path / "run.jsonl"), "--baseline", str(tmp_path / "base.jsonl")]) == 0
    said = capsys.readouterr().out
    assert "samples ended" in said and f"page: {tmp_path / 'run.html'}" in said
    assert "requests.png" in {path.name for path in (tmp_path / "run_charts").iterdir()}
    seen = visit(tmp_path / "run.html", tmp_path)
    assert seen.console == []
    assert "engine failed" in seen.dom


def test_places_may_be_named(tmp_path: Path) -> None:
    file = write_run(tmp_path / "run.jsonl", known_run())
    page, charts = tmp_path / "other.html", tmp_path / "charts"
    assert main([str(file), "--html", str(page), "--png-folder", str(charts)]) == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert len(list(charts.iterdir())) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["charts", "other.html", "run.jsonl"]


def lines_of(path: Path) -> list[str]:
    return write_run(path, known_run()).read_text().splitlines(keepends=True)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refusal says."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert said.out == "" and line.startswith("report: ")
    return line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        ("", "an empty file"),
        ("hello\n", "line 1: "),
        ('{"group": "g0", "sample": 0, "output_ids": []}\n', "neither a run nor a comparison"),
        ("[1, 2]\n", "line 1: "),
        ('{"type": "rollout", "at_s": 0}\n', "line 1: "),
        ("\x00\x01\x02", "line 1: "),
    ],
)
def test_a_file_of_another_kind(
    content: str | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.jsonl"
    if content is not None:
        file.write_text(content)
    line = refused([str(file)], capsys)
    assert str(file) in line and expected in line
    # The same holds for a baseline.
    good = write_run(tmp_path / "run.jsonl", known_run())
    assert str(file) in refused([str(good), "--baseline", str(file)], capsys)
    assert not (tmp_path / "run.html").exists()


def test_a_line_that_is_no_event_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.jsonl"
    lines = lines_of(file)
    for broken in ("no JSON\n", '{"type": "finish", "at_s": 1}\n', "\n"):
        file.write_text("".join([*lines[:9], broken, *lines[10:]]))
        assert f"{file}, line 10: " in refused([str(file)], capsys)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """A rollout that was killed: its run file is shown as far as it goes."""
    file = tmp_path / "run.jsonl"
    lines = lines_of(file)
    file.write_text("".join(lines)[:-20])
    assert main([str(file)]) == 0
    assert "1 samples have not ended in this file" in (tmp_path / "run.html").read_text()


def test_options_of_the_other_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sglang_seer.report import kept
    from sglang_seer.report.figures import figures

    run, comparison = write_run(tmp_path / "run.jsonl", known_run()), tmp_path / "demo.json"
    kept.write(comparison, two_sides(), figures(two_sides()))
    assert "--picture" in refused([str(run), "--picture", str(tmp_path / "x.png")], capsys)
    assert "--html" in refused([str(comparison), "--html", str(tmp_path / "x.html")], capsys)
    assert str(comparison) in refused([str(run), "--baseline", str(comparison)], capsys)
    # A comparison in one line is one all the same.
    comparison.write_text(comparison.read_text().replace("\n", "") + "\n")
    assert main([str(comparison)]) == 0


def test_the_run_file_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_run(tmp_path / "run.html", known_run())
    before = file.read_bytes()
    assert "would overwrite" in refused([str(file)], capsys)
    assert file.read_bytes() == before
