"""Runs in an engine: takes Seer's hooks out of its scheduler in every other second, and notes each decode step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

WINDOW_S = 1.0
RUN_BATCH = "sglang.srt.managers.scheduler.Scheduler.run_batch"


class Switch:
    """Hooks on a class, which can be taken away and put back."""

    def __init__(self, owner: type, names: Iterable[str]) -> None:
        """names: of methods. One that has no hook stays as it is."""
        self._owner = owner
        self._hooked = {name: vars(owner)[name] for name in names if hasattr(vars(owner)[name], "__wrapped__")}
        self._here = True

    @property
    def names(self) -> list[str]:
        return list(self._hooked)

    def turn(self, here: bool) -> None:
        """Has the hooks in place, or what they were put around."""
        if here == self._here:
            return
        self._here = here
        for name, hooked in self._hooked.items():
            setattr(self._owner, name, hooked if here else hooked.__wrapped__)


def due(now_s: float) -> bool:
    """Whether the hooks are in place in this second."""
    return int(now_s / WINDOW_S) % 2 == 0


def spans(since_s: float, until_s: float) -> list[tuple[float, float]]:
    """The seconds with hooks that lie in this time."""
    first = int(since_s / WINDOW_S) + 1
    windows = ((number * WINDOW_S, (number + 1) * WINDOW_S) for number in range(first, int(until_s / WINDOW_S)))
    return [(begun_s, ended_s) for begun_s, ended_s in windows if due((begun_s + ended_s) / 2)]


class Recorder:
    """Around `Scheduler.run_batch`, with hooks or without."""

    def __init__(
        self,
        names: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        """names: of the scheduler's methods that have a hook of Seer's."""
        self._names = list(names)
        self._clock, self._cpu = clock, cpu
        self._switch: Switch | None = None
        self._steps: list[tuple[int, float, float, float, float]] = []
        self._last = (0, 0.0, 0.0)
        self._spent_s = 0.0

    def __call__(self, original: Callable[..., Any], scheduler: Any, batch: Any, *arguments: Any, **named: Any) -> Any:
        now_s, cpu_s = self._clock(), self._cpu()
        if self._switch is None:
            self._switch = Switch(type(scheduler), self._names)
        self._switch.turn(due(now_s))
        requests = len(batch.reqs) if batch.forward_mode.is_decode() else 0
        size, ended_s, ended_cpu_s = self._last
        if requests and requests == size:
            self._steps.append((requests, now_s, now_s - ended_s, cpu_s - ended_cpu_s, self._spent_s))
        self._last, self._spent_s = (requests, now_s, cpu_s), 0.0
        return original(scheduler, batch, *arguments, **named)

    def timed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """The hook after each batch, with a clock around it."""

        def around(*arguments: Any) -> Any:
            begun_s = time.perf_counter()
            try:
                return hook(*arguments)
            finally:
                self._spent_s += time.perf_counter() - begun_s

        return around

    def told(self) -> dict[str, Any]:
        """For /server_info."""
        return {
            "steps": self._steps,
            "hooks": self._switch.names if self._switch else [],
        }


def install() -> None:
    """Before SGLang loads plugins: what they register is noted, and a hook of our own goes with it."""
    from sglang_seer.patches import lines
    from sglang_seer.status import STATUS

    register = lines.install

    def with_recorder(patch_set: Any) -> None:
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        from sglang_seer.engine import hooks

        paths = [patch.target.path for patch in patch_set.patches]
        owner = RUN_BATCH.rpartition(".")[0]
        recorder = Recorder(path.rpartition(".")[2] for path in paths if path.rpartition(".")[0] == owner)
        hooks.process_batch_result = recorder.timed(hooks.process_batch_result)
        register(patch_set)
        HookRegistry.register(RUN_BATCH, recorder, HookType.AROUND)
        STATUS.sources["bench"] = recorder.told

    lines.install = with_recorder
