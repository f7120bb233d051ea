"""Prepared pages of the MLflow UI: which runs, which columns, which charts. Without them its first page is one collapsed row.

A view is a tag of the experiment in the form in which the UI shares its own (MLflow 3.17). A UI that doesn't know the form
passes it over or says so, and shows all runs.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

TAG_PREFIX = "mlflow.sharedViewState."
LADDER, SEARCH, RUNS = "ladder", "search", "runs"
TITLES = {LADDER: "compare the rungs", SEARCH: "compare the trials", RUNS: "all runs as a table"}
FACTS = ("params.`n_params`", "params.`lr`", "params.`lr_source`", "params.`seed`", "tags.`status`")
SCORES = ("metrics.`val/nll`", "metrics.`val/top1`", "metrics.`test/nll`", "metrics.`test/top1`")
IS_RUN = "tags.`harness.kind` = 'run'"
# Sorted by anything but the time of creation, runs are a flat list; else they hide under their closed parents.
ORDER = "metrics.`val/nll`"


def tags() -> dict[str, str]:
    """The views as tags of an experiment."""
    nll, top1, train = _lines("val/nll"), _lines("val/top1"), _lines("train/loss")
    ends = [_points("n_params", metric) for metric in ("test/nll", "test/top1")]
    of_trial = ("tags.`rung`", *FACTS, "metrics.`val/loss`", *SCORES[:2])
    of_run = ("tags.`rung`", "tags.`stage`", "params.`train_texts`", *FACTS, *SCORES)
    views = {
        LADDER: _view("tags.stage = 'ladder'", (*FACTS, *SCORES), [nll, top1, *ends, train]),
        SEARCH: _view(f"tags.stage = 'search' and {IS_RUN}", of_trial, [_points("log10_lr", "val/loss"), _lines("val/loss"), train]),
        RUNS: _view(IS_RUN, of_run, [nll, top1, train]),
    }
    return {TAG_PREFIX + name: json.dumps(view) for name, view in views.items()}


def page(experiment: str, view: str) -> str:
    """The part of an address behind the UI's own."""
    mode = "TABLE" if view == RUNS else "CHART"
    return f"/#/experiments/{experiment}/runs?workflowType=machine_learning&compareRunsMode={mode}&viewStateShareKey={view}"


def links(experiment: str) -> str:
    """The views as a line of Markdown, for a description."""
    return " | ".join(f"[{title}]({page(experiment, view)[1:]})" for view, title in TITLES.items())


def _view(runs: str, columns: Sequence[str], charts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "searchFilter": runs,
        "orderByKey": ORDER,
        "orderByAsc": True,
        "selectedColumns": list(columns),
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": list(charts),
        "compareRunSections": [{"uuid": "main", "name": "Curves and ends", "display": True, "isReordered": False}],
        "isAccordionReordered": False,
    }


def _lines(metric: str) -> dict[str, Any]:
    """A metric over training tokens, a line a run."""
    axes = {
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
    }
    look = {"lineSmoothness": 0, "ignoreOutliers": False, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
    return _chart("LINE", f"line-{metric}") | {"metricKey": metric, "selectedMetricKeys": [metric]} | axes | look


def _points(param: str, metric: str) -> dict[str, Any]:
    """The last value of a metric over a parameter, a point a run."""
    axes = {"xaxis": {"key": param, "type": "PARAM"}, "yaxis": {"key": metric, "type": "METRIC"}}
    return _chart("SCATTER", f"points-{param}-{metric}") | axes


def _chart(kind: str, id: str) -> dict[str, Any]:
    return {"uuid": id, "type": kind, "metricSectionId": "main"} | {"runsCountToCompare": 100, "deleted": False, "isGenerated": False}
