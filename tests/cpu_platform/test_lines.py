"""The older SGLang lines on a CPU, each in an environment of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cpu_platform.conftest import GREEDY, SEEDED, engine_arguments
from tests.cpu_platform.cpu_lines import LINES, EnvironmentUnavailable, line_python
from tests.cpu_platform.engines import Answers, EngineHost, logprobs, tokens


@pytest.mark.parametrize("line", LINES)
def test_an_older_line_gives_the_same_bits(line: str, model: Path, plain: Answers, tmp_path: Path) -> None:
    """Another SGLang with another torch; the reference is this environment's engine."""
    try:
        python = line_python(line)
    except EnvironmentUnavailable as error:
        pytest.skip(f"no environment with SGLang {line}: {error}")
    with EngineHost(python, tmp_path) as host:
        greedy, seeded = host.run(engine_arguments(model), [GREEDY, SEEDED])
    assert tokens(greedy) == tokens(plain[0])
    assert logprobs(greedy) == logprobs(plain[0])
    assert tokens(seeded) == tokens(plain[1])
