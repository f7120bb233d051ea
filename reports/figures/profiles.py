"""Test loss against size at equal compute, and the size of least loss against compute."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.analysis.isoflop import Profile, Scaling, budgets
from harness.results import Results
from reports import style
from reports.fits import LOSS, Fits, fits
from reports.numbers import bounded, decimals_of, listed, plural, power, short

TITLE = "Profiles at equal compute"
PLACE = 9.2
ABSENT = "The study has no budget of training FLOPs at which four sizes saw each text once."
ALT = "two panels: test loss against parameters, a curve for each budget of FLOPs, and the size of least loss against training FLOPs."
COLUMNS = ["kind", "method", "budget", "budgets", "flops", "rung", "seed", "n_params", "loss", "status"]
COLUMNS += ["low", "high", "is_below", "a", "a_low", "a_high"]
# Blue circles and orange squares: told apart in print too.
LOOKS: dict[str, tuple[str, str, Literal["-", "--"]]] = {"parabola": ("#1f4e79", "o", "-"), "akima": ("#c2691c", "s", "--")}
NAMES = {"parabola": "parabola", "akima": "Akima"}
CURVE_POINTS, LAW_POINTS = 60, 30
# How far an arrow past the sizes reaches, and the room about what is drawn, as a factor.
PAST = 1.6


def prepare(results: Results) -> pd.DataFrame:
    """Rows by `kind`: a run; curve, points of a budget's parabola; mean, of a size where a budget has none; optimum; law, of a method.

    `low`, `high`: 95 % bounds of `n_params`, of an optimum 0 or infinite where they are open. `status`: of the optimum; where that is
    `edge`, `n_params` is the size at that end, and `is_below` says whether the optimum lies below it.
    """
    found = fits(results)
    profiles = found.profiles["parabola"].profiles if found.profiles else ()
    if all(profile.status == "too few" for profile in profiles):
        return pd.DataFrame(columns=COLUMNS)
    rows = [*_runs(found, profiles)]
    for method, scaling in found.profiles.items():
        rows += [_optima(method, scaling, found.runs["n_params"]), *_law(method, scaling)]
    frame = pd.concat(rows, ignore_index=True).reindex(columns=COLUMNS)
    return frame.assign(budgets=len(profiles))


def _runs(found: Fits, profiles: tuple[Profile, ...]) -> Iterator[pd.DataFrame]:
    """The runs of each budget, and the line through them."""
    budget = budgets(found.runs["train_flops"].to_numpy(float))
    for i, profile in enumerate(profiles):
        about = {"budget": i, "flops": profile.flops}
        runs = found.runs[budget == i].assign(loss=lambda own: own[LOSS]).sort_values(["n_params", "seed"])
        yield runs[["rung", "seed", "n_params", "loss"]].assign(kind="run", **about)
        if profile.status == "resolved":
            n = np.geomspace(runs["n_params"].min(), runs["n_params"].max(), CURVE_POINTS)
            yield pd.DataFrame({"kind": "curve", "method": "parabola", "n_params": n, "loss": profile.parabola(n), **about})
        else:
            yield runs.groupby("n_params", as_index=False)["loss"].mean().assign(kind="mean", **about)


def _optima(method: str, scaling: Scaling, sizes: pd.Series) -> pd.DataFrame:
    table = scaling.table.assign(kind="optimum", method=method, budget=range(len(scaling.profiles)))
    edge = table["status"] == "edge"
    middle = np.sqrt(sizes.min() * sizes.max())
    ends = {"n_params": table["n_params"].where(~edge, table["end"]), "loss": table["loss"].where(~edge, table["end_loss"])}
    below = (table["end"] < middle).astype(float).where(edge)
    return table.drop(columns=["n", "reason", "train_tokens", "curvature", "end", "end_loss"]).assign(**ends, is_below=below)


def _law(method: str, scaling: Scaling) -> Iterator[pd.DataFrame]:
    """The law over the budgets that it is fitted to, with its band."""
    if scaling.status != "fitted":
        return
    resolved = [profile.flops for profile in scaling.profiles if profile.status == "resolved"]
    points = [(flops, scaling.at(flops)[0], *scaling.band(flops)) for flops in np.geomspace(min(resolved), max(resolved), LAW_POINTS)]
    frame = pd.DataFrame(points, columns=["flops", "n_params", "low", "high"])
    yield frame.assign(kind="law", method=method, a=scaling.a.value, a_low=scaling.a.low, a_high=scaling.a.high)


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Left the profiles, right their optima."""
    figure, axes = style.panels(1, 2, 9.5)
    _losses(axes[0, 0], frame)
    _sizes(axes[0, 1], frame)
    style.legend_below(figure, _handles(frame), columns=4)
    return figure


def _losses(ax: Axes, frame: pd.DataFrame) -> None:
    """A line a budget; the optimum of its parabola filled, one at an end of the sizes hollow."""
    runs = frame[frame["kind"] == "run"]
    style.size_axis(ax, runs["n_params"], most=5)
    ends = ax.get_xlim()
    for _, own in frame[frame["kind"] != "law"].groupby("budget"):
        color = _color(own)
        points, line = own[own["kind"] == "run"], own[own["kind"].isin(["curve", "mean"])]
        ax.plot(points["n_params"], points["loss"], linestyle="", marker=".", markersize=4, color=color, alpha=0.6)
        ax.plot(line["n_params"], line["loss"], color=color, linestyle="-" if line["kind"].iloc[0] == "curve" else ":", linewidth=1.2)
        for _, best in own[(own["kind"] == "optimum") & (own["method"] == "parabola")].dropna(subset=["n_params"]).iterrows():
            face = color if best["status"] == "resolved" else "white"
            ax.plot(np.clip([best["low"], best["high"]], *ends), [best["loss"]] * 2, color=color, linewidth=2.2, alpha=0.8, zorder=3)
            ax.plot(best["n_params"], best["loss"], marker="o", color=color, markerfacecolor=face, markersize=5.5, zorder=4)
    ax.set_ylabel("test loss (nats per token)")


def _sizes(ax: Axes, frame: pd.DataFrame) -> None:
    """Optima with their intervals, beside each other where two methods have one; arrows point past the sizes."""
    optima, laws = (frame[frame["kind"] == kind].dropna(subset=["n_params"]) for kind in ("optimum", "law"))
    flops = frame[frame["kind"] == "run"]["flops"]
    style.log_axis(ax, "x", [flops.min() / PAST, flops.max() * PAST], power, most=3)
    style.log_axis(ax, "y", _shown_sizes(frame), short, most=6)
    ax.set_xlabel("training FLOPs of one run")
    ax.set_ylabel("size of least loss (parameters)")
    left, right = ax.get_xlim()
    for place, (method, (color, marker, dash)) in enumerate(LOOKS.items()):
        law = laws[laws["method"] == method]
        ax.fill_between(law["flops"], law["low"], law["high"], color=color, alpha=0.12, linewidth=0)
        ax.plot(law["flops"], law["n_params"], color=color, linestyle=dash, linewidth=1)
        for _, best in optima[optima["method"] == method].iterrows():
            x, resolved = best["flops"] * (right / left) ** (0.012 * (2 * place - 1)), best["status"] == "resolved"
            ax.plot([x, x], np.clip([best["low"], best["high"]], *ax.get_ylim()), color=color, linewidth=1.2)
            ax.plot(x, best["n_params"], marker=marker, color=color, markerfacecolor=color if resolved else "white", markersize=5)
            if not resolved:
                past = best["n_params"] * (1 / PAST if best["is_below"] == 1 else PAST)
                arrow = {"arrowstyle": "->", "color": color, "shrinkA": 3, "shrinkB": 0}
                ax.annotate("", xy=(x, past), xytext=(x, best["n_params"]), arrowprops=arrow)


def _shown_sizes(frame: pd.DataFrame) -> list[float]:
    """What the axis of best sizes has to hold: optima, arrows, bounds as far as runs go, laws; all sizes where there is none of these."""
    runs, optima = frame[frame["kind"] == "run"]["n_params"], frame[frame["kind"] == "optimum"].dropna(subset=["n_params"])
    edges = optima[optima["status"] == "edge"]
    past = edges["n_params"] * np.where(edges["is_below"] == 1, 1 / PAST, PAST)
    bounds = optima[["low", "high"]].clip(runs.min(), runs.max()).to_numpy(float).ravel()
    laws = frame[frame["kind"] == "law"][["n_params", "low", "high"]].to_numpy(float).ravel()
    # Room about a single optimum too.
    some = [optima["n_params"].min() / PAST, optima["n_params"].max() * PAST] if len(optima) else runs
    return [float(value) for value in np.concatenate([past, bounds, laws, some])]


def _color(own: pd.DataFrame) -> str:
    """Of the rows of one budget."""
    return style.budget_color(int(own["budget"].iloc[0]), int(own["budgets"].iloc[0]))


def _handles(frame: pd.DataFrame) -> list[Line2D | Patch]:
    runs, optima, laws = (frame[frame["kind"] == kind] for kind in ("run", "optimum", "law"))
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=_color(own), label=f"{power(own['flops'].iloc[0])} FLOPs") for _, own in runs.groupby("budget")
    ]
    for method, (color, marker, dash) in LOOKS.items():
        line: Literal["-", "--", ""] = dash if method in set(laws["method"]) else ""
        if optima[optima["method"] == method]["n_params"].notna().any():
            handles.append(Line2D([], [], color=color, marker=marker, linestyle=line, markersize=5, label=f"by {NAMES[method]}"))
    if (optima["status"] == "edge").any():
        handles.append(Line2D([], [], color=style.GREY, marker="o", markerfacecolor="white", linestyle="", label="past the sizes tried"))
    if len(laws):
        handles.append(Patch(color=style.LIGHT, linewidth=0, label="95 % band of a law"))
    return handles


def caption(frame: pd.DataFrame) -> str:
    """What to see."""
    optima, laws = frame[frame["kind"] == "optimum"], frame[frame["kind"] == "law"]
    best = optima[optima["method"] == "parabola"]
    n, resolved = int(frame["budgets"].iloc[0]), best[best["status"] == "resolved"]
    curves = (
        " Curves are parabolas in the logarithm of size, large points their lowest ones, bars 95 % intervals over bootstraps of runs."
        if len(resolved)
        else ""
    )
    dotted = " Dotted: mean losses where no parabola has its lowest point inside the sizes." if len(resolved) < n else ""
    return (
        f"Left: test loss against size at {plural(n, 'budget')} of compute, where a larger model sees fewer tokens; a point is a run."
        f"{curves}{dotted}{_censored(best)}{_found(resolved)}{_exponents(laws)}"
    )


def _censored(best: pd.DataFrame) -> str:
    edge, curved = best[best["status"] == "edge"], best[best["status"] == "not convex"]
    said = ""
    if len(edge):
        at = listed([power(flops) for flops in edge["flops"]])
        said += f" Hollow, at {at} FLOPs: the optimum lies past the sizes tried, where the arrow points, and enters no law."
    if len(curved):
        said += f" At {listed([power(flops) for flops in curved['flops']])} FLOPs the losses don't curve upwards: there is no optimum."
    return said


def _found(resolved: pd.DataFrame) -> str:
    if resolved.empty:
        return " No budget has its best size inside the sizes tried."
    first, last = resolved.iloc[0], resolved.iloc[-1]
    if len(resolved) == 1:
        return f" Right: the size of least loss, by the parabola {short(first['n_params'])} parameters at {power(first['flops'])} FLOPs."
    return (
        f" Right: the size of least loss, by the parabola {short(first['n_params'])} parameters at {power(first['flops'])} FLOPs and "
        f"{short(last['n_params'])} at {power(last['flops'])}."
    )


def _exponents(laws: pd.DataFrame) -> str:
    if laws.empty:
        return " No law of it is fitted: that takes three budgets with their optimum inside the sizes."
    said = []
    for method, rows in laws.groupby("method", sort=False):
        value, low, high = (float(rows[name].iloc[0]) for name in ("a", "a_low", "a_high"))
        said.append(f"a = {bounded(value, low, high, decimals_of((high - low) / 2, 3))} by {NAMES[str(method)]}")
    return f" It grows as C^a with {listed(said)}."
