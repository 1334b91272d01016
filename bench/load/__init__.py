"""Load generators, each in a process of its own: `python -m bench.load NAME OPTIONS`."""
