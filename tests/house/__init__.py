"""The rules of the house, as tests: who imports whom, names, sizes, what stands where."""
