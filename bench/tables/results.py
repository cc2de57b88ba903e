"""A benchmark's JSON as a table needs it: rows by name, numbers as text, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Results:
    """One file of bench/results. Raises ValueError for a file that cannot be read or is no JSON object."""

    def __init__(self, path: Path) -> None:
        try:
            self.document: Mapping[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: {error}; wanted the JSON of a benchmark") from error
        if not isinstance(self.document, dict):
            raise ValueError(f"{path}: wanted a JSON object, saw {type(self.document).__name__}")
        self.path = path
        self.rows: list[dict[str, Any]] = self.document.get("rows", [])
        self._by_name: dict[tuple[str, str, str], Mapping[str, Any]] = {
            (row["system"], row["case"], row["metric"]): row for row in self.rows
        }

    def row(self, system: str, case: str, metric: str) -> Mapping[str, Any]:
        """Raises ValueError naming the row that is not there."""
        try:
            return self._by_name[system, case, metric]
        except KeyError:
            raise ValueError(f"{self.path}: wanted a row of {system!r}, {case!r}, {metric!r}, saw none") from None

    def value(self, system: str, case: str, metric: str) -> float:
        return float(self.row(system, case, metric)["value"])

    def range(self, system: str, case: str, metric: str) -> tuple[float, float]:
        """Lowest and highest of the repetitions."""
        return lowest_and_highest(self.row(system, case, metric))

    def ranged(self, system: str, case: str, metric: str, form: str) -> str:
        """The median, with the lowest and the highest in brackets where they differ from it."""
        row = self.row(system, case, metric)
        shown, low, high = (format(number, form) for number in (row["value"], *lowest_and_highest(row)))
        return shown if low == shown == high else f"{shown} ({low} to {high})"

    def origin(self, command: str) -> str:
        """The line below a table: the command, the file, and what it ran on."""
        machine, versions = self._machine()
        shown = [f"Python {versions['python']}", *([f"SGLang {versions['sglang']}"] if "sglang" in versions else [])]
        commit = f", commit {self.document['commit']}" if self.document.get("commit") else ""
        return f"`{command}` made `bench/results/{self.path.name}`: {machine}, {', '.join(shown)}{commit}."

    def _machine(self) -> tuple[str, Mapping[str, str]]:
        # What `demo --json` keeps has a header of its own.
        kept = self.document.get("hardware") or self.document["machine"]
        versions = self.document.get("versions") or {"python": kept["python"], **kept["versions"]}
        processor = kept.get("gpu") or f"{kept['cores']} cores, {kept['cpu']}"
        return processor, versions


def lowest_and_highest(row: Mapping[str, Any]) -> tuple[float, float]:
    """Of a row's repetitions; of a row without a spread its value, twice."""
    spread = row["spread"] or {}
    return spread.get("min", row["value"]), spread.get("max", row["value"])
