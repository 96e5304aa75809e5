"""The proof: tests mirror the wings, with house rules, conformance, fuzz and benchmarks beside them."""
