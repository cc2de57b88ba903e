"""The row format of all benchmarks: `{bench, system, case, metric, value, unit, spread}` under a header."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COMMIT_FILE = "bench/COMMIT"


@dataclass(frozen=True, slots=True)
class Row:
    """One number. `spread` says how far to trust it, as named numbers; None for a single deterministic run."""

    bench: str
    system: str
    case: str
    metric: str
    value: float
    unit: str
    spread: dict[str, float] | None = None


def header(command: str, packages: Sequence[str]) -> dict[str, Any]:
    """What a reader needs to repeat the rows.

    packages: distributions whose versions count; None is shown for one that is missing.
    """
    return {
        "command": command,
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory_gb": _memory_gb(),
            "os": platform.system(),
            **gpus(),
        },
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "commit": commit(),
    }


def write_json(path: Path, head: dict[str, Any], rows: Sequence[Row], **more: Any) -> None:
    """The header, the rows and what a plot needs besides, a line each. Raises OSError if it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def encode(value: Any) -> str:
        return json.dumps(value, allow_nan=False)

    lines = ",\n".join("  " + encode(asdict(row)) for row in rows)
    fields = {name: encode(value) for name, value in {**head, **more}.items()} | {"rows": f"[\n{lines}\n ]"}
    path.write_text("{\n" + ",\n".join(f" {encode(name)}: {value}" for name, value in fields.items()) + "\n}\n")


def table(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table under a title. Raises ValueError for a ragged line."""
    return f"### {title}\n\n{grid(columns, lines)}\n"


def grid(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right. Raises ValueError for a ragged line."""
    for line in lines:
        if len(line) != len(columns):
            raise ValueError(
                f"table of {columns[0]!r}: wanted {len(columns)} cells a line, saw {len(line)}: {list(line)}"
            )
    widths = [max(len(str(line[place])) for line in (columns, *lines)) for place in range(len(columns))]

    def render(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = "|" + "|".join("-" * (width + 1) + (":" if place else "-") for place, width in enumerate(widths)) + "|"
    return "\n".join([render(columns), rule, *map(render, lines)])


def median_row(bench: str, system: str, case: str, metric: str, values: Sequence[float], unit: str) -> Row:
    """The median of repeated measurements, with the smallest, the largest and their number as spread.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError(f"{system} {case} {metric}: wanted at least one value, saw none")
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return Row(
        bench, system, case, metric, middle, unit, {"min": ordered[0], "max": ordered[-1], "repetitions": len(ordered)}
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def gpus() -> dict[str, str]:
    """Name, memory and driver of each GPU, as NVIDIA's tool tells them; empty where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return {"gpu": "; ".join(lines)} if done.returncode == 0 and lines else {}


def _memory_gb() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit that was measured, with + where the tree differs from it; None where nothing tells it.

    A pack for a host without the repository tells it in a file.
    """
    done = subprocess.run(["git", "describe", "--always", "--abbrev=12", "--dirty=+"], cwd=ROOT, capture_output=True)
    if done.returncode != 0:
        return (ROOT / COMMIT_FILE).read_text().strip() if (ROOT / COMMIT_FILE).exists() else None
    return done.stdout.decode().strip() or None
