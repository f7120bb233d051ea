"""The specification curve: a row for every cell, each equal to the fit that it names."""

import numpy as np
import pandas as pd
import pytest

from harness.analysis.additive import Law
from harness.analysis.power_law import fit_power_law
from harness.analysis.specification import CHOICES, COLUMNS, Choices, curve, exclusions, irreducible_choices, spread, surface_curve
from harness.analysis.surface import Columns, fit_surface

TRUTH = Law(1.7, (482.01, 2085.43), (0.35, 0.36))


def ladder(seeds: int = 3) -> pd.DataFrame:
    """Sizes whose embeddings don't shrink with the rest, so that the counting rule decides the exponent."""
    total = np.repeat(np.geomspace(1e5, 1e8, 7), seeds)
    loss = 1.7 + 400 * total**-0.35 * np.exp(0.002 * np.random.default_rng(0).normal(size=total.size))
    return pd.DataFrame({"n_params": total, "non_embedding_params": total - 60_000, "test_loss": loss})


def test_a_row_a_cell_and_each_is_its_own_fit() -> None:
    runs = ladder()
    choices = Choices(("n_params", "non_embedding_params"), exclusions(runs, highest=3), irreducible_choices(1.7))
    cells = curve(runs, choices, n_draws=20)
    assert list(cells.columns) == COLUMNS and len(cells) == 2 * 4 * 3 * 2
    assert not cells.duplicated(CHOICES).any()
    row = cells.query("x == 'n_params' and estimator == 'VPNLS' and irreducible == 'floor' and exclusion == 'smallest size'").iloc[0]
    alone = fit_power_law(runs.iloc[3:], "n_params", irreducible=1.7, estimator="VPNLS", n_draws=20).constants["alpha"]
    assert (row["value"], row["low"], row["high"], row["n"]) == (alone.value, alone.low, alone.high, 18)
    assert set(cells[cells["irreducible"] == "0"]["E"]) == {0.0}


def test_the_choice_that_moves_the_exponent_is_found() -> None:
    runs = ladder()
    choices = Choices(("n_params", "non_embedding_params"), {"none": np.ones(len(runs), bool)}, {"floor": 1.7})
    found = spread(curve(runs, choices, n_draws=0))
    assert max(found.by_choice, key=lambda name: found.by_choice[name]) == "x"
    assert found.cells == found.converged == 4
    assert found.high - found.low > 0.05 and found.by_choice["irreducible"] == 0.0
    pure = spread(curve(runs, Choices(("n_params",), choices.exclusions, irreducible_choices(1.7)), n_draws=0))
    assert max(pure.by_choice, key=lambda name: pure.by_choice[name]) == "irreducible"


def test_cells_without_a_fit_stay_in_the_table_and_out_of_the_range() -> None:
    runs = ladder(seeds=1).iloc[:3]
    cells = curve(runs, Choices(("n_params",), {"none": np.ones(3, bool)}, irreducible_choices()), n_draws=0)
    assert set(cells.query("irreducible == 'free'")["status"]) == {"too few"}
    assert cells.query("irreducible == 'free'")["value"].isna().all()
    found = spread(cells)
    assert (found.cells, found.converged) == (4, 2)
    nothing = spread(cells[cells["status"] == "too few"])
    assert nothing.converged == 0 and np.isnan(nothing.low)


def test_exclusions_name_what_stays() -> None:
    runs = ladder(seeds=2)
    masks = exclusions(runs, highest=2)
    assert list(masks) == ["none", "smallest size", "largest size", "2 highest losses"]
    assert [int(mask.sum()) for mask in masks.values()] == [14, 12, 12, 12]
    assert runs[masks["2 highest losses"]]["test_loss"].max() < runs[~masks["2 highest losses"]]["test_loss"].min()


def test_the_surface_has_alpha_beta_and_allocation_in_every_cell() -> None:
    n, ratio = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e9, 6), [5, 20, 80], indexing="ij"))
    runs = pd.DataFrame({"n_params": n, "train_tokens": n * ratio, "test_loss": TRUTH.loss(n, n * ratio)})
    cells = surface_curve(runs, Choices(("n_params",), {"none": np.ones(len(runs), bool)}, {"free": None}), n_draws=0)
    assert len(cells) == 6 and set(cells["exponent"]) == {"alpha", "beta", "a"}
    values = cells[cells["estimator"] == "VPNLS"].set_index("exponent")["value"]
    assert values.to_dict() == pytest.approx({"alpha": 0.35, "beta": 0.36, "a": 0.36 / 0.71}, rel=1e-6)
    alone = fit_surface(runs, Columns(), n_draws=0).vpnls
    assert values["alpha"] == alone.law.exponents[0]
