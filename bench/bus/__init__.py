"""Benchmark of the token bus."""
