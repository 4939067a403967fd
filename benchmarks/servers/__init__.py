"""Servers of others with the same file, as one would write them; `benchmarks.serve` compares with them."""
