"""The proof: tests mirror the wings (codec, middleware, broker); house rules, conformance, fuzz and benchmarks beside them."""
