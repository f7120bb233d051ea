"""The engine of a scaling study, from study file to results."""

import os

__version__ = "0.1.0"

# Read when numpy and scipy are first imported. Their matrices here are tiny, and threads that wait for each other on busy cores made
# a fit of .3 seconds one of 20.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
