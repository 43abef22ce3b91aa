"""`make gpu`: the tests marked `gpu`, then a benchmark, in one command, for a machine with GPUs and no network.

The tests themselves are in `marked/`; this folder holds what runs them, measures, and writes the results.
"""
