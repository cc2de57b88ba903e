"""Times of single calls: CPU time of the whole process, so that helper threads count, and wall time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass(slots=True)
class Times:
    """[calls] nanoseconds each; `units` counts what the calls worked on (requests or tokens)."""

    cpu_ns: list[int] = field(default_factory=list)
    wall_ns: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)

    def extend(self, other: Times) -> None:
        self.cpu_ns += other.cpu_ns
        self.wall_ns += other.wall_ns
        self.units += other.units

    def us_per_unit(self, clock: str = "cpu_ns") -> float:
        return float(sum(getattr(self, clock)) / max(sum(self.units), 1) / 1e3)

    def each_us_per_unit(self) -> list[float]:
        return [ns / units / 1e3 for ns, units in zip(self.cpu_ns, self.units, strict=True) if units]


class Stopwatch:
    """Times calls by kind."""

    def __init__(self) -> None:
        self.kinds: dict[str, Times] = {}

    def call(self, kind: str, units: int, function: Callable[[Any], Result], argument: Any) -> Result:
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        result = function(argument)
        cpu_ns, wall_ns = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
        times = self.kinds.setdefault(kind, Times())
        times.cpu_ns.append(cpu_ns)
        times.wall_ns.append(wall_ns)
        times.units.append(units)
        return result

    def merge(self, other: Stopwatch) -> None:
        for kind, times in other.kinds.items():
            self.kinds.setdefault(kind, Times()).extend(times)

    def worst_ms(self, clock: str = "cpu_ns") -> dict[str, float]:
        """The longest single call of each kind."""
        return {kind: max(getattr(times, clock)) / 1e6 for kind, times in self.kinds.items()}
