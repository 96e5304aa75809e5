"""Known ways to break the code, each of which must make a test fail: `python -m tests.mutants`, or `make mutants`."""
