"""Benchmarks: everything that is compared runs in one process, in turn, on the same inputs."""
