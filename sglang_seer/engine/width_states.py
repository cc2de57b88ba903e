"""Attention state and CUDA graphs for every width that a step may have, swapped without capturing anything again.

SGLang captures one width, the server's; some attention backends take it from the server's arguments. So every other
width gets a backend and graphs of its own, made the way SGLang makes them for its adaptive speculation
(`EAGLEWorkerV2.build_adaptive_runtime_state`). Width 1 is the root alone: a server without speculation, whose decode
graphs are those of plain SGLang. Not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

from sglang_seer.patches.adapter import line


@dataclass(frozen=True, slots=True)
class WidthState:
    """What a model runner needs to run steps of one width; `graphs` is what stands for them where none are captured."""

    attn_backend: Any
    graphs: Any


class WidthStates:
    """The states of one model runner by width, in nodes a request, root included."""

    def __init__(self, model_runner: Any, widths: Sequence[int]) -> None:
        """Build the states that SGLang has not made."""
        self._model_runner = model_runner
        self._full = int(line.get_spec().speculative_num_draft_tokens)
        # Widest first: graphs share one memory pool, which is then large enough for the others.
        self._widths = sorted(set(widths) - {self._full}, reverse=True)
        self._build_all()

    @contextmanager
    def use(self, width: int) -> Iterator[None]:
        """Run a step of this width inside. Raises KeyError for a width without a state."""
        if width == self._full:
            yield
            return
        runner = self._model_runner
        if runner.decode_cuda_graph_runner is not self._captured:
            self._build_all()  # SGLang has captured again, so what ours were captured with is gone
        state = self._states[width]
        before = runner.attn_backend, runner.decode_cuda_graph_runner
        with self._as_server_of(width):
            runner.attn_backend, runner.decode_cuda_graph_runner = state.attn_backend, state.graphs
            try:
                yield
            finally:
                runner.attn_backend, runner.decode_cuda_graph_runner = before

    def _build_all(self) -> None:
        self._captured = self._model_runner.decode_cuda_graph_runner
        self._states = {width: self._build(width) for width in self._widths}

    def _build(self, width: int) -> WidthState:
        runner = self._model_runner
        with self._as_server_of(width):
            workspace = runner.init_new_workspace
            try:
                backend = runner._get_attention_backend(init_new_workspace=True)
            finally:
                runner.init_new_workspace = workspace
            graphs = self._captured
            if graphs is not None and graphs is not runner.eager_runner:
                graphs = type(graphs)(runner, attn_backend=backend, speculative_num_draft_tokens=width)
        return WidthState(backend, graphs)

    @contextmanager
    def _as_server_of(self, width: int) -> Iterator[None]:
        """What SGLang's parts read about speculation is that of a server of this width."""
        runner = self._model_runner
        algorithm = runner.spec_algorithm
        with ExitStack() as stack:
            if width > 1:
                stack.enter_context(line.get_spec().override(speculative_num_draft_tokens=width))
            else:
                stack.enter_context(
                    line.get_spec().override(
                        speculative_algorithm=None,
                        speculative_num_draft_tokens=None,
                        speculative_num_steps=None,
                        speculative_eagle_topk=None,
                    )
                )
                runner.spec_algorithm = SpeculativeAlgorithm.NONE
            try:
                yield
            finally:
                runner.spec_algorithm = algorithm
