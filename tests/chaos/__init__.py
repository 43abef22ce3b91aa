"""Chaos: runs during which processes are killed and stopped, files touched, disks filled and knobs turned, at random.

`flight` takes one run through what its seed brings, `acts` and its neighbours are what may happen to it, `verdict` says
what is wrong with its end (nothing, if every prompt has exactly one whole record), `fleet` does many seeds at once.
`python -m tests.chaos` (`make chaos`) flies a thousand.
"""
