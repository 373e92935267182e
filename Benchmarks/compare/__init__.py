"""Compares crfs with what users would pick instead: `python3 -m compare --help`, from Benchmarks/."""
