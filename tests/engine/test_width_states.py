"""Swapping the state of a width.

Graphs need a GPU: the runner and its graphs are stand-ins here, the config bag is SGLang's. The same code over a real
model runner, without graphs, is in test_equality.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.runtime_context import _ConfigBag
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

from sglang_seer.engine import width_states
from sglang_seer.engine.width_states import WidthStates

WIDTHS = (1, 5, 9, 17)
FULL = {
    "speculative_algorithm": "SEER",
    "speculative_num_draft_tokens": 17,
    "speculative_num_steps": 1,
    "speculative_eagle_topk": 17,
}
PLAIN = dict.fromkeys(FULL)


class Graphs:
    """Remembers as what server it was captured."""

    def __init__(self, runner: Any, attn_backend: Any = None, speculative_num_draft_tokens: int = 17) -> None:
        self.backend = attn_backend
        self.width = speculative_num_draft_tokens
        self.seen = (dict(runner.spec._fields), runner.spec_algorithm)


class Runner(SimpleNamespace):
    def _get_attention_backend(self, init_new_workspace: bool) -> Any:
        assert init_new_workspace
        self.init_new_workspace = True
        return SimpleNamespace(width=self.spec.speculative_num_draft_tokens or 1)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    spec = _ConfigBag("spec")
    for name, value in FULL.items():
        spec._set(name, value)
    monkeypatch.setattr(width_states.line, "get_spec", lambda: spec)
    runner = Runner(
        spec=spec,
        spec_algorithm="SEER",
        init_new_workspace=False,
        eager_runner=object(),
        attn_backend=SimpleNamespace(width=17),
    )
    runner.decode_cuda_graph_runner = Graphs(runner)
    return runner


def looks(runner: Runner) -> tuple[Any, ...]:
    bag = dict(runner.spec._fields)
    return bag, runner.spec_algorithm, runner.attn_backend, runner.decode_cuda_graph_runner, runner.init_new_workspace


def test_each_width_runs_with_what_was_made_for_it_and_leaves_nothing_behind(runner: Runner) -> None:
    before = looks(runner)
    states = WidthStates(runner, WIDTHS)
    assert looks(runner) == before
    for width in (5, 1, 9, 17, 5):
        with states.use(width):
            graphs, backend = runner.decode_cuda_graph_runner, runner.attn_backend
            assert (graphs.width, backend.width) == (width, width)
            assert graphs.backend is (None if width == 17 else backend)
            # What is read while graphs replay is what was read while they were captured.
            assert (dict(runner.spec._fields), runner.spec_algorithm) == graphs.seen
        assert looks(runner) == before


def test_width_one_is_a_server_without_speculation(runner: Runner) -> None:
    with WidthStates(runner, WIDTHS).use(1):
        assert runner.spec._fields == PLAIN
        assert runner.spec_algorithm is SpeculativeAlgorithm.NONE


def test_everything_is_put_back_after_a_failed_step(runner: Runner) -> None:
    before = looks(runner)
    states = WidthStates(runner, WIDTHS)
    with pytest.raises(RuntimeError), states.use(1):
        raise RuntimeError
    assert looks(runner) == before


def test_nothing_is_captured_where_sglang_captured_nothing(runner: Runner) -> None:
    for nothing in (None, runner.eager_runner):
        runner.decode_cuda_graph_runner = nothing
        with WidthStates(runner, WIDTHS).use(5):
            assert runner.decode_cuda_graph_runner is nothing
            assert runner.attn_backend.width == 5


def test_graphs_are_made_again_once_sglang_has_made_its_own_again(runner: Runner) -> None:
    states = WidthStates(runner, WIDTHS)
    with states.use(5):
        first = runner.decode_cuda_graph_runner
    with states.use(5):
        assert runner.decode_cuda_graph_runner is first
    runner.decode_cuda_graph_runner = Graphs(runner)
    with states.use(5):
        assert runner.decode_cuda_graph_runner is not first


def test_a_width_without_a_state_is_an_error(runner: Runner) -> None:
    with pytest.raises(KeyError), WidthStates(runner, WIDTHS).use(3):
        pass
