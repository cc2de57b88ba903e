"""The benchmark of the bus: latencies are matched by piece, sharing helps and lag costs, arguments are checked."""

from __future__ import annotations

import numpy as np
import pytest

from bench.bus import load, main
from bench.bus.acceptance import acceptance
from bench.draft import synthetic
from bench.paired import Step, over_quiet, own_us


def test_sharing_helps_and_lag_costs() -> None:
    groups = synthetic.groups(count=1, siblings=8, mean_tokens=150)

    def of(lag_steps: int | None, engines: int = 4) -> float:
        return acceptance(groups, engines=engines, lag_steps=lag_steps, vocab_size=synthetic.VOCAB_SIZE)

    assert of(None) < of(40) < of(0)
    assert of(None, engines=1) == of(0, engines=1)


def test_latency_is_that_of_the_same_piece() -> None:
    def seen(written: list[list[int]], read: list[list[int]]) -> load.Seen:
        tables = (np.array(rows, dtype=np.int64).reshape(-1, 4) for rows in (written, read))
        return load.Seen({}, *tables, {})

    writer = seen([[1, 2, 5, 1_000], [1, 3, 5, 2_000]], [])
    # The last one was joined with another piece on the way and has no time of its own.
    reader = seen([], [[1, 3, 5, 9_000], [1, 2, 5, 4_000], [1, 2, 7, 9_000]])
    assert load.latency_ms([writer, reader]).tolist() == [7.0, 3.0]


def test_seconds_with_traffic_are_compared_with_the_quiet_ones_beside_them() -> None:
    def walls(seconds: list[float]) -> list[Step]:
        """Steps of 20 ms one after the other; each second's take what is said, on paper."""
        return [
            Step(12, second + 0.02 * n, wall_s, 2 * wall_s, 1e-4 * second)
            for second, wall_s in enumerate(seconds)
            for n in range(50)
        ]

    # The machine gets slower from second to second, and traffic costs a tenth on top.
    steps = walls([1.0, 1.1 * 1.1, 1.2, 1.1 * 1.3, 1.4])
    assert over_quiet(steps, [(1.0, 2.0), (3.0, 4.0)], "wall_s") == pytest.approx([1.1, 1.1])
    assert over_quiet(steps, [(1.0, 2.0)], "cpu_s") == pytest.approx([1.1])
    assert own_us(steps, [(1.0, 2.0), (3.0, 4.0)]) == pytest.approx(200)
    # Nothing to compare with after it.
    assert over_quiet(steps, [(4.0, 5.0)], "wall_s") == []


def test_bad_arguments(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SystemExit):
        main(["--repetitions", "0"])
    assert "wanted at least 1, saw 0" in capsys.readouterr().err
    assert main(["--data", str(tmp_path), "--parts", "acceptance"]) == 2
    assert "wanted at least one" in capsys.readouterr().err
