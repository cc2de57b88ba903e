"""Benchmarks; `python -m sglang_seer bench NAME` runs `main(argv)` of the module NAME in here."""
