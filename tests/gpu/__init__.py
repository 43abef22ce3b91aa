"""`make gpu`: the tests marked `gpu`, then a benchmark, as one command for a bare machine with GPUs and without network.

The tests themselves are in `marked/`; this folder holds what runs them, measures, and writes the results.
"""
