"""Benchmarks: a load generator in C, and the driver that runs brokers in turn and compares their CPU cost.

`python -m tests.bench` (or `make bench`) is the way in; README.md explains scenarios and columns.
"""
