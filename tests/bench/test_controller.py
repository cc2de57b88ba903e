"""The controller's benchmark: its pace, what it says of a load that was not there, and what it makes of chunks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bench.controller import command, recovery
from bench.controller.chunks import QUICK
from bench.controller.cpu_engines import check_equal
from bench.controller.load import Load, Measured
from bench.controller.pacer import Pacer
from sglang_seer.rollout import Chunk, Sample

LOAD = Load(engines=2, in_flight=100, rate=50, chunk_tokens=8, seconds=1.0)


class Paced:
    """A chunk of so many events."""

    def __init__(self, pacer: Pacer, events: int, sent: Counter[int]) -> None:
        self.pacer, self.events_left, self.sent = pacer, events, sent

    def step(self) -> None:
        self.sent[self.events_left] += 1
        self.events_left -= 1
        if self.events_left:
            self.pacer.add(self)


def test_as_many_chunks_end_as_are_due() -> None:
    """Whoever comes, and in whatever wave: 400 at once, then one for each that ends."""
    sent: Counter[int] = Counter()
    pacer = Pacer(rate=1.0, events=4, in_flight=400)
    for _ in range(400):
        pacer.add(Paced(pacer, 4, sent))
    for _ in range(100):
        before = sent[1]
        pacer.pass_on(10)
        for number in range(sent[1] - before):
            # Some chunks are short.
            pacer.add(Paced(pacer, 2 if number == 0 else 4, sent))
    for _ in range(50):
        before = sent.copy()
        pacer.pass_on(10)
        assert sent[1] - before[1] == 10
        for _ in range(10):
            pacer.add(Paced(pacer, 4, sent))


def test_where_too_few_are_in_flight_fewer_end() -> None:
    """Negative control: the pace is not made up from chunks that are held back."""
    sent: Counter[int] = Counter()
    pacer = Pacer(rate=1.0, events=4, in_flight=400)
    for _ in range(300):
        pacer.add(Paced(pacer, 4, sent))
    for _ in range(100):
        pacer.pass_on(10)
    assert sent[1] == 0


def measured(chunks_a_second: float, in_flight: int) -> Measured:
    return Measured(chunks_a_second, 0.2, 0.001, 9.0, in_flight, 100.0, 0.3)


def test_a_load_that_was_not_there_is_told() -> None:
    assert measured(49.9, 99).shortfalls(LOAD) == []
    assert measured(40.0, 99).shortfalls(LOAD) == ["40 chunks/s of 50 wanted"]
    assert measured(50.0, 90).shortfalls(LOAD) == ["90 in flight of 100 wanted"]


def test_a_small_load_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that nobody can reach is reported, and said to be none."""
    path = tmp_path / "rows.json"
    small = ["--engines", "2", "--in-flight", "20", "--rate", "40", "--chunk-tokens", "8", "--seconds", "2"]
    status = command.main([*small, "--repetitions", "1", "--json", str(path)])
    kept = json.loads(path.read_text())
    assert status == (1 if kept["load_not_reached"] else 0)
    rows = {row["metric"]: row["value"] for row in kept["rows"]}
    assert {row["case"] for row in kept["rows"]} == {"2 engines, 20 in flight, 40 chunks/s wanted"}
    assert rows["chunks_a_second"] > 0 and rows["cpu_a_chunk"] > 0 and rows["cpu_a_pass"] > 0
    assert rows["in_flight"] > 0 and rows["engines_cpu_share"] > 0
    beyond = [*small[:4], "--rate", "100000", *small[6:]]
    assert command.main([*beyond, "--repetitions", "1"]) == 1
    assert "THE LOAD WAS NOT REACHED: run 1: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--parts", "none"], ["--parts", ""], ["--rate", "0"], ["--seconds", "-1"], ["--seconds", "nan"]]
)
def test_bad_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)


def sample(*chunks: Chunk) -> Sample:
    return Sample(
        group="g", sample=0, seed=0, input_ids=[1], output_ids=[2], finish_reason="length", chunks=list(chunks)
    )


def chunk(end: str, tokens: int, started_s: float) -> Chunk:
    return Chunk(engine="a", tokens=tokens, end=end, input_tokens=1, started_s=started_s)


def test_recovery_is_what_came_after_chunks_that_broke() -> None:
    samples = [
        sample(chunk("length", 8, 1.0), chunk("connection: lost", 6, 2.0), chunk("length", 8, 3.5)),
        sample(chunk("connection: lost", 3, 2.0), chunk("stop", 4, 4.0)),
        sample(chunk("length", 8, 9.0)),
    ]
    assert recovery.recovered(samples, 3.0, 8) == recovery.Recovered(0.5, 1.0, 2, 5)
    with pytest.raises(ValueError, match="broke no chunk off"):
        recovery.recovered(samples[2:], 3.0, 8)


def test_samples_that_differ_are_no_result() -> None:
    one = {("g", 0): [1, 2], ("g", 1): [3]}
    check_equal(one, {("g", 0): (1, 2), ("g", 1): (3,)}, "run 1")
    with pytest.raises(ValueError, match=r"run 1: 1 of 2 samples differ, the first: \('g', 1\)"):
        check_equal(one, {("g", 0): [1, 2], ("g", 1): [4]}, "run 1")
    with pytest.raises(ValueError, match="1 samples came, wanted 2"):
        check_equal({("g", 0): [1, 2]}, one, "run 1")
    assert QUICK.limit > QUICK.chunk_tokens
