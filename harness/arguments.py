"""The arguments of the verbs that have many: a bare parser enters, and knows them after."""

import argparse
from pathlib import Path

from harness import advise as advising


def fit_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of `fit`."""
    sub.add_argument("table", metavar="CSV", type=Path, help="a header line, then a row a run, each at the end of its own schedule")
    sub.add_argument("--n", metavar="COLUMN", required=True, help="parameters")
    data = sub.add_mutually_exclusive_group(required=True)
    data.add_argument("--d", metavar="COLUMN", help="training tokens")
    data.add_argument("--flops", metavar="COLUMN", help="training FLOPs, from which D = C / 6N follows")
    sub.add_argument("--loss", metavar="COLUMN", required=True)
    sub.add_argument("--sigma", metavar="COLUMN", help="standard deviation of each loss; weights are 1 / sigma^2")
    sub.add_argument("--run", metavar="COLUMN", help="names the run, where a run has several rows: the bootstrap draws whole runs")
    sub.add_argument("--drop-highest", metavar="K", type=int, default=0, help="leave out the K rows of highest loss")
    sub.add_argument("--bootstraps", metavar="N", type=int, default=1000)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--json", action="store_true", help="all numbers at full precision")


def advise_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of `advise`."""
    sub.add_argument("study", metavar="STUDY")
    budget = sub.add_mutually_exclusive_group(required=True)
    budget.add_argument("--flops", type=float, metavar="1e16", help="training FLOPs of one run, in the harness's own count")
    budget.add_argument("--within", metavar="2h", help="time of one run on the machine that the study was planned on")
    sub.add_argument("--narrow", choices=advising.NARROW, default="size", help="what the next runs are chosen to narrow")
    sub.add_argument("--write", type=Path, metavar="FILE", help="write the advice as a study file")
    sub.add_argument("--json", action="store_true", help="all numbers at full precision")
