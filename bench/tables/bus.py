"""The token bus: what sharing is worth, and what it costs."""

from __future__ import annotations

from statistics import fmean

from bench.rows import grid
from bench.tables.results import Results

SPLITS = (2, 4, 8)
SYSTEMS = {"none": "nothing shared", "bus at 100 ms": "bus", "perfect": "shared at once"}
ONE_TO_ONE, ALL_TO_ALL = "100,000 tokens/s", "8 engines x 64 x 40/s"
BUSES = {"ipc": "ZeroMQ", "redis": "Redis"}


def acceptance(results: Results) -> str:
    """Means over the recorded sets."""

    def of(system: str, split: int, metric: str) -> list[float]:
        return [
            row["value"]
            for row in results.rows
            if (row["system"], row["metric"]) == (system, metric)
            and row["case"].endswith(f", {split} engines")
            and not row["case"].startswith("generated")
        ]

    lines = [
        [name, *(f"{fmean(of(system, split, 'acceptance')):.2f}" for split in SPLITS)]
        for system, name in SYSTEMS.items()
    ]
    ratios = [of("bus at 100 ms", split, "acceptance_over_perfect") for split in SPLITS]
    lines.append(["bus / at once, mean (lowest)", *(f"{fmean(found):.3f} ({min(found):.3f})" for found in ratios)])
    sets = len(ratios[0])
    head = f"acceptance, mean of {sets} recorded sets, trees of 16, text 100 ms late"
    return grid([head, *(f"{split} engines" for split in SPLITS)], lines)


def load(results: Results) -> str:
    def share(bus: str, case: str, part: str) -> str:
        return f"{100 * results.value(bus, case, f'cpu_share_{part}'):.1f}%"

    def latency(bus: str, case: str) -> str:
        p50, p99 = (results.value(bus, case, f"latency_ms_{part}") for part in ("p50", "p99"))
        return f"{p50:,.0f}; {p99:,.0f} ms"

    def bytes_a_token(bus: str, case: str) -> str:
        return f"{results.value(bus, case, 'bytes_per_token'):.1f}"

    lines = [
        [f"{ONE_TO_ONE} from one engine to another: share of a core, reader"]
        + [f"{share(bus, ONE_TO_ONE, 'read')} (index {share(bus, ONE_TO_ONE, 'read_index')})" for bus in BUSES],
        ["writer", *(share(bus, ONE_TO_ONE, "write") for bus in BUSES)],
        ["bytes a token", *(bytes_a_token(bus, ONE_TO_ONE) for bus in BUSES)],
        ["latency until a step has it, steps of 50 ms: p50; p99", *(latency(bus, ONE_TO_ONE) for bus in BUSES)],
        [
            "8 engines x 64 requests x 40 tokens/s: share of a core of each",
            *(share(bus, ALL_TO_ALL, "both") for bus in BUSES),
        ],
        ["bytes a token", *(bytes_a_token(bus, ALL_TO_ALL) for bus in BUSES)],
        ["latency p50; p99", *(latency(bus, ALL_TO_ALL) for bus in BUSES)],
    ]
    return grid(["medians", *BUSES.values()], lines)


def engines(results: Results) -> str:
    """Real engines: what sharing brings."""
    names = {"none": "nothing shared", **BUSES}
    rows = [row for row in results.rows if row["metric"] == "same_samples"]
    lines = [
        [
            names[row["system"]],
            results.ranged(row["system"], row["case"], "acceptance", ".2f"),
            "yes" if row["value"] else "no",
        ]
        for row in rows
    ]
    return grid([rows[0]["case"], "acceptance, all nodes verified", "same samples"], lines)


def steps(results: Results) -> str:
    """What a decode step takes while siblings elsewhere write, over what it takes while they do not."""

    def over(bus: str, case: str, metric: str) -> str:
        row = results.row(bus, case, metric)
        spread = row["spread"]
        return f"{row['value']:.3f} ({spread['lower']:.3f} to {spread['upper']:.3f})"

    rows = [row for row in results.rows if row["metric"] == "step_ms"]
    lines = [
        [
            row["case"],
            BUSES[row["system"]],
            f"{row['value']:.1f}",
            over(row["system"], row["case"], "step_over_quiet"),
            over(row["system"], row["case"], "step_cpu_over_quiet"),
            f"{results.value(row['system'], row['case'], 'sharing_us'):,.0f}",
            f"{results.row(row['system'], row['case'], 'step_over_quiet')['spread']['seconds']:.0f}",
        ]
        for row in rows
    ]
    columns = [
        "bus",
        "ms a step",
        "step over quiet (quartiles)",
        "its CPU time over quiet",
        "us in sharing",
        "seconds compared",
    ]
    return grid(["written elsewhere", *columns], lines)
