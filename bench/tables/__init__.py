"""`python -m sglang_seer bench tables`: the tables in README.md and docs/, from the JSON of the benchmarks."""

from bench.tables.command import main

__all__ = ["main"]
