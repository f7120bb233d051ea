"""`harness fit`: tables of anyone's runs, with all that can be wrong with them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness import __main__ as verbs
from harness.analysis.additive import Law
from harness.analysis.fit import Constant
from harness.errors import StudyError
from harness.fit_table import Request, as_data, fit_table, notes, read, shown

TRUTH = Law(1.81686, (482.01, 2085.43), (0.34781, 0.36585))


def frame(sizes: int = 6, ratios: tuple[float, ...] = (5, 20, 80), noise: float = 0.002) -> pd.DataFrame:
    n, ratio = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e9, sizes), ratios, indexing="ij"))
    losses = TRUTH.loss(n, n * ratio) * np.exp(noise * np.random.default_rng(0).normal(size=n.size))
    return pd.DataFrame({"params": n, "tokens": n * ratio, "loss": losses})


def written(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def lines_of(table: pd.DataFrame) -> list[str]:
    return table.to_csv(index=False).strip().split("\n")


def request(path: Path, **more: object) -> Request:
    return Request(path, "params", "loss", **({"d": "tokens", "bootstraps": 20} | more))  # type: ignore[arg-type]


def run_fit(path: Path, *more: str) -> int:
    return verbs.main(["fit", str(path), "--n", "params", "--d", "tokens", "--loss", "loss", "--bootstraps", "20", *more])


def test_json_has_the_constants_at_full_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "runs.csv", lines_of(frame(noise=0)))
    assert run_fit(path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    expected = {"alpha": 0.34781, "beta": 0.36585, "A": 482.01, "B": 2085.43, "E": 1.81686}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert {name: found["vpnls"][name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert found["objective"] == pytest.approx(0, abs=1e-12)
    assert (found["estimator"], found["status"], found["n"], found["excluded"]) == ("log-Huber", "converged", 18, [])
    assert found["a"] == pytest.approx(0.36585 / (0.34781 + 0.36585), rel=1e-6)


def test_the_highest_losses_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = frame()
    table.loc[[4, 9], "loss"] = [19.0, 18.0]
    path = written(tmp_path / "runs.csv", lines_of(table))
    assert run_fit(path, "--json", "--drop-highest", "2") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["excluded"] == [
        {"line": 6, "reason": "one of the 2 highest losses: 19"},
        {"line": 11, "reason": "one of the 2 highest losses: 18"},
    ]
    without = written(tmp_path / "without.csv", lines_of(table.drop([4, 9])))
    assert run_fit(without, "--json") == 0
    same = json.loads(capsys.readouterr().out)
    assert [found[k] for k in ("alpha", "objective", "intervals", "n")] == [same[k] for k in ("alpha", "objective", "intervals", "n")]


def test_bad_rows_are_named_by_line_with_their_reason(tmp_path: Path) -> None:
    good = lines_of(frame())
    bad = ["abc,1e9,3.0", "1e6,nan,3.0", "1e6,inf,3.0", "1e6,-2,3.0", "1e6,0,3.0", "1e6,1e9", ",1e9,", '"1,000",1e9,3.0']
    path = written(tmp_path / "runs.csv", [good[0], *bad, "", *good[1:]])
    fitted = fit_table(request(path))
    assert [(row.line, row.reason) for row in fitted.excluded] == [
        (2, "params is not a number: 'abc'"),
        (3, "tokens is not finite: nan"),
        (4, "tokens is not finite: inf"),
        (5, "tokens is not above 0: -2"),
        (6, "tokens is not above 0: 0"),
        (7, "loss is empty"),
        (8, "params is empty; loss is empty"),
        (9, "params is not a number: '1,000'"),
    ]
    assert fitted.surface.log_huber.n == 18
    assert list(fitted.rows["line"]) == list(range(11, 29))
    assert any("line 4: tokens is not finite: inf" in note for note in notes(fitted))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_other_separators_a_byte_order_mark_and_names_with_spaces(tmp_path: Path, separator: str) -> None:
    table = frame().rename(columns={"params": "Model Size"})
    path = tmp_path / "runs.csv"
    path.write_text("\ufeff" + table.to_csv(index=False, sep=separator), encoding="utf-8")
    rows, excluded = read(Request(path, "Model Size", "loss", d="tokens"))
    assert not excluded and rows["n"].tolist() == table["Model Size"].tolist()


def test_flops_stand_for_tokens(tmp_path: Path) -> None:
    table = frame()
    path = written(tmp_path / "runs.csv", lines_of(table.assign(flops=6 * table["params"] * table["tokens"])))
    by_flops = fit_table(request(path, d=None, flops="flops", bootstraps=0)).surface.vpnls.law
    assert by_flops.exponents == pytest.approx(fit_table(request(path, bootstraps=0)).surface.vpnls.law.exponents, rel=1e-6)


def test_sigma_weighs_and_a_bad_sigma_is_a_bad_row(tmp_path: Path) -> None:
    table = frame().assign(sigma=0.01)
    table.loc[3, ["loss", "sigma"]] = [5.0, 50.0]
    table.loc[7, "sigma"] = 0.0
    fitted = fit_table(request(written(tmp_path / "runs.csv", lines_of(table)), sigma="sigma", bootstraps=0))
    assert [(row.line, row.reason) for row in fitted.excluded] == [(9, "sigma is not above 0: 0.0")]
    assert fitted.surface.vpnls.law.exponents[0] == pytest.approx(0.348, abs=0.03)


def test_rows_of_one_run_are_drawn_together(tmp_path: Path) -> None:
    table = frame(noise=0.01)
    twice = pd.concat([table.assign(run=[f"r{i}" for i in range(len(table))])] * 2)
    path = written(tmp_path / "runs.csv", lines_of(twice))
    fits = [fit_table(request(path, run=run, bootstraps=100)).surface.vpnls for run in ("run", None)]
    assert [fit.n_runs for fit in fits] == [18, 36]
    widths = [fit.constants["alpha"].high - fit.constants["alpha"].low for fit in fits]
    assert widths[0] > 1.15 * widths[1]


# What is answered with an error.


@pytest.mark.parametrize(
    "lines,more,what",
    [
        (["param,tokens,loss", "1,2,3"], {}, "no column 'params'. Did you mean param? There are: param, tokens, loss."),
        (["params,tokens,loss"], {}, "none of its rows can be used"),
        (["params,tokens,loss", "x,1,1"], {}, "Line 2: params is not a number: 'x'"),
        ([""], {}, "has no header line"),
        (["params,tokens,loss", "1,2,3"], {"drop_highest": 5}, "none of its rows can be used"),
        (["params,tokens,loss", "1,2,3"], {"sigma": "sd"}, "no column 'sd'"),
    ],
)
def test_tables_that_hold_nothing(tmp_path: Path, lines: list[str], more: dict[str, object], what: str) -> None:
    with pytest.raises(StudyError) as error:
        fit_table(request(written(tmp_path / "runs.csv", lines), **more))
    assert what in str(error.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="can't be read: No such file"):
        fit_table(request(tmp_path / "none.csv"))
    (tmp_path / "runs.csv").write_bytes(b"params,tokens,loss\n\xff\xfe,1,2\n")
    with pytest.raises(StudyError, match="not a CSV in UTF-8"):
        fit_table(request(tmp_path / "runs.csv"))


def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path: Path) -> None:
    lines = lines_of(frame())
    path = written(tmp_path / "runs.csv", [*lines[:4], '1e6,1e9,"3.0', *lines[4:]])
    with pytest.raises(StudyError, match=r"runs.csv:5: is not a row of a CSV, look for a quote"):
        fit_table(request(path))


@pytest.mark.parametrize(
    "table,status,what",
    [
        (frame().assign(params=1e6), "too few", "alpha needs 3 different values"),
        (frame(sizes=2), "too few", "alpha needs 3"),
        (frame(ratios=(20,)), "not identified", "condition"),
    ],
)
def test_what_has_no_surface_ends_with_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: pd.DataFrame, status: str, what: str
) -> None:
    path = written(tmp_path / "runs.csv", lines_of(table))
    assert run_fit(path, "--json") == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["status"], found["alpha"], found["objective"]) == (status, None, None)
    assert what in found["reason"] and what in err
    assert run_fit(path) == 2
    assert ("add 1e+06 parameters on" in err) == (status == "not identified")


@pytest.mark.parametrize("more", [("--drop-highest", "-1"), ("--bootstraps", "-5")])
def test_negative_counts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, str]) -> None:
    assert run_fit(written(tmp_path / "runs.csv", lines_of(frame())), *more) == 2
    assert "must be 0 or more" in capsys.readouterr().err


# For people.


def test_the_table_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_fit(written(tmp_path / "runs.csv", lines_of(frame())), "--drop-highest", "1") == 0
    out = capsys.readouterr().out
    assert "17 rows of" in out and "log-Huber" in out and "VPNLS" in out and "converged" in out
    assert "line 2: the highest loss" in out and "20 bootstraps" in out


@pytest.mark.parametrize(
    "constant,text",
    [
        (Constant(0.34753, 0.3156, 0.3727), "0.348 (0.316 to 0.373)"),
        (Constant(2241.65, 1032.7, 6303.6), "2,200 (1,000 to 6,300)"),
        (Constant(2.53e6, 1.04e3, 3.5e12), "2.5e6 (1,000 to 3.5e12)"),
        (Constant(0.4, 0.0, 26_012.0), "0.4 (0 to 26,000)"),
        (Constant(1.82, np.nan, np.nan), "1.82"),
        (Constant(np.nan, np.nan, np.nan), "-"),
    ],
)
def test_the_interval_decides_the_digits(constant: Constant, text: str) -> None:
    assert shown(constant) == text


def test_data_for_machines_holds_no_nan(tmp_path: Path) -> None:
    path = written(tmp_path / "runs.csv", lines_of(frame()))
    data = as_data(fit_table(request(path, bootstraps=0)))
    assert data["intervals"]["alpha"] == [None, None]
    json.dumps(data, allow_nan=False)
