"""Clocks, energy counters and phases, for benchmarks and the server."""
