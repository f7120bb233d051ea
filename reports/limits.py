"""What this very study can't say, found by rule, each with what would lift it."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.analysis.design import extrapolation
from harness.results import Results
from reports import numbers
from reports.findings import gap
from reports.fits import fits
from reports.numbers import listed, plural, power
from reports.summary import best, chosen, default_lr, floor, measured, rungs, searches, stuck
from reports.training import training


@dataclass(frozen=True)
class Limit:
    """A limit in a sentence, and a remedy as a phrase; the remedy is empty where more of the same study would not help."""

    rule: str
    text: str
    remedy: str


def limits(results: Results) -> list[Limit]:
    """All limits that apply, the ones that most threaten the answer first."""
    found = [rule(results) for rule in RULES]
    return [limit for limit in found if limit]


def _few_seeds(results: Results) -> Limit | None:
    few = [rung for rung in measured(results) if rung.seeds < 3]
    if not few:
        return None
    said = listed([f"{rung.name} ({rung.seeds})" for rung in few])
    note = " One seed gives no interval at all." if any(rung.seeds == 1 for rung in few) else ""
    return Limit(
        "seeds", f"Fewer than 3 completed seeds at {said}: intervals there are very wide or missing.{note}", "three seeds or more a rung"
    )


def _few_sizes(results: Results) -> Limit | None:
    count = len(measured(results))
    if count >= 3:
        return None
    text = f"Only {plural(count, 'size')} completed: a trend, and above all its shape, needs 3 or more."
    return Limit("sizes", text, "at least three sizes")


def _no_search(results: Results) -> Limit | None:
    if searches(results):
        return None
    rate = power(default_lr(results))
    text = f"No learning rate was searched: all sizes were trained at {rate}, and differ, for all that is known, by how well it suits them."
    return Limit("search", text, "a learning rate searched for each size")


def _edge(results: Results) -> Limit | None:
    edge = results.searches[results.searches["lr_status"] == "edge"]
    if edge.empty:
        return None
    said = listed([f"{row['rung']} ({power(row['lr'])})" for _, row in edge.iterrows()])
    text = f"The best rate tried lies at an end of what was tried at {said}: the true optimum may lie beyond, and the rung may do better."
    return Limit("edge", text, f"learning rates beyond the best one at {listed(list(edge['rung']))}")


def _unresolved(results: Results) -> Limit | None:
    loose = results.searches[results.searches["lr_status"].isin(["flat", "unresolved"])]
    if loose.empty:
        return None
    said = listed([f"{row['rung']} ({row['lr_status']})" for _, row in loose.iterrows()])
    text = f"The search did not resolve a minimum at {said}; the rate of the best completed trial was used."
    return Limit("unresolved", text, f"more trials at {listed(list(loose['rung']))}")


def _skipped(results: Results) -> Limit | None:
    left_out = [rung for rung in rungs(results) if rung.skipped]
    if not left_out:
        return None
    names = listed([rung.name for rung in left_out])
    text = f"Not trained on this machine, for the reasons in section 8: {names}. Nothing here speaks of these sizes."
    return Limit("skipped", text, f"training {names}")


def _cut(results: Results) -> Limit | None:
    cut = int(results.plan.get("cut") or 0)
    if not cut:
        return None
    factor, epochs = 2 ** (cut / 2), chosen(results)["epochs"].dropna()
    within = numbers.duration(results.plan.get("within_s") or float("nan"))
    seen = f"; a run saw {numbers.short(epochs.min())} to {numbers.short(epochs.max())} epochs" if len(epochs) else ""
    if len(epochs) and f"{epochs.min():.2g}" == f"{epochs.max():.2g}":
        seen = f"; a run saw {epochs.max():.2g} {'epoch' if epochs.max() <= 1 else 'epochs'} of its texts"
    text = (
        f"Token budgets were cut by a factor of {factor:.3g} to fit {within}{seen}. With the full budget the order of the rungs may differ."
    )
    return Limit("cut", text, f"the full token budget ({factor:.3g} times as long)")


def _still_falling(results: Results) -> Limit | None:
    runs = chosen(results).dropna(subset=["best_step", "steps"])
    at_end = (runs["best_step"] >= runs["steps"]).groupby(runs["rung"]).mean()
    order = [rung.name for rung in measured(results)]
    names = sorted((str(name) for name, share in at_end.items() if share > 0.5), key=order.index)
    if not names:
        return None
    where = "every rung" if len(names) == len(order) and len(names) > 1 else listed(names)
    text = (
        f"Validation NLL was still at its lowest at the last evaluation for {where}: these results are a budget's, not a size's at its end."
    )
    # Where budgets were cut, the remedy for the cut is longer training already.
    return Limit("budget", text, "" if results.plan.get("cut") else "longer training")


def _stuck(results: Results) -> Limit | None:
    runs = stuck(results)
    if runs.empty:
        return None
    return Limit("stuck", f"{plural(len(runs), 'run')} completed without learning more than character frequencies; means include them.", "")


def _families(results: Results) -> Limit | None:
    families = sorted({rung.family for rung in measured(results) if rung.family})
    if len(families) < 2:
        return None
    text = f"The rungs come from {len(families)} families ({listed(families)}): neighbours differ in proportions or parametrization"
    return Limit("families", f"{text}, not in size alone.", "a ladder within one family")


def _test_texts(results: Results) -> Limit | None:
    errors = chosen(results)["test_nll_se"].dropna()
    if errors.empty:
        return None
    text = (
        f"Intervals are over seeds. The choice of test texts adds a standard error of {numbers.fixed(errors.mean(), 2)} nats per text to "
        "every level; it is common to all rungs, so it hardly touches their differences."
    )
    return Limit("test texts", text, "")


def _default_once(results: Results) -> Limit | None:
    if not any(rung.default is not None for rung in rungs(results)):
        return None
    return Limit("default rate", "The default rate was run once a rung, with seed 0: its rows have no interval of their own.", "")


def _repeats(results: Results) -> Limit | None:
    most = chosen(results)["epochs"].max()
    if not most > 1.01:
        return None
    return Limit("repeats", f"Training texts repeat (up to {most:.3g} epochs): a law for data seen once does not apply.", "")


def _no_law(results: Results) -> Limit | None:
    found = fits(results)
    if not found.refused:
        return None
    kind = "of the loss" if found.add else "in size alone"
    return Limit("no law", f"No law {kind} is fitted: {found.refused}.", f"for a law, {found.add}" if found.add else "")


def _unchecked(results: Results) -> Limit | None:
    held = fits(results).held
    if held is None or held.status != "no law":
        return None
    return Limit("unchecked", f"No law was checked on a size that it had not seen: {held.reason}.", "a further size for the held-out check")


def _unlocked(results: Results) -> Limit | None:
    """The held-out rung was named when its runs could be known."""
    lock = results.lock
    if lock.held or not lock.rung or fits(results).held is None:
        return None
    was = lock.then or "none"
    text = f"The held-out rung was changed after training: {was} was named when {lock.rung} was trained. Its check is no prediction."
    return Limit("unlocked", text, "a new size, named before it is trained")


def _far(results: Results) -> Limit | None:
    """The held-out rung lies over a decade past the sizes that predict it."""
    found = fits(results)
    if found.held is None or found.held.status == "no law":
        return None
    smaller = found.ladder[found.ladder["n_params"] < found.held.n_params]
    rung = found.ladder[found.ladder["n_params"] == found.held.n_params]
    tokens = smaller["train_tokens"].to_numpy(float)
    far = extrapolation(smaller["n_params"].to_numpy(float), tokens, found.held.n_params, float(rung["train_tokens"].mean()))
    return Limit("extrapolation", f"The held-out prediction {far}.", "a size in between") if far else None


def _reach(results: Results) -> Limit | None:
    """What a law rests on, where that is little."""
    found = fits(results)
    if found.grid is None or found.surface is None or not found.grid.coverage.warnings:
        return None
    return Limit("grid", f"The surface rests on little: {'; '.join(found.grid.coverage.warnings)}.", "a wider grid of sizes and budgets")


def _improving(results: Results) -> Limit | None:
    """Runs in a fit that had not come to their end."""
    found, judged = fits(results), training(results)
    if found.refused:
        return None
    inside = judged[judged["key"].isin(found.runs["key"])]
    still = (inside["verdict"] == "still improving").sum()
    if not still:
        return None
    text = f"{still} of {len(inside)} runs in the fits were still improving at the end of their schedule: the law is of that budget."
    return Limit("improving", text, "")


def _overfitting(results: Results) -> Limit | None:
    judged = training(results)
    over = judged[judged["verdict"] == "overfitting"]
    if over.empty:
        return None
    names = listed(list(dict.fromkeys(over.sort_values("n_params")["rung"])))
    text = f"{plural(len(over), 'run')} overfitted ({names}): validation loss ended above its lowest; section 3 says from which step."
    return Limit("overfitting", text, "more texts or fewer epochs there")


def _distance(results: Results) -> Limit | None:
    top = best(results)
    found = gap(results, top) if top and floor(results) else None
    if not found or found[0] < 2 * found[1]:
        return None
    text = f"The best rung is {numbers.fixed(found[0], 1)} nats per text above the best possible; models close to it may behave otherwise."
    return Limit("floor", text, "")


def _one_data_set(results: Results) -> Limit:
    kind = ", drawn from a generator rather than written by people," if results.data.get("source") == "wire" else ""
    return Limit("one data set", f"One data set{kind} and one architecture. Nothing is extrapolated past the sizes trained.", "")


RULES: tuple[Callable[[Results], Limit | None], ...] = (
    _no_search, _few_seeds, _few_sizes, _edge, _unresolved, _skipped, _cut, _still_falling, _stuck, _families, _test_texts, _default_once,
    _repeats, _no_law, _unchecked, _unlocked, _far, _reach, _improving, _overfitting, _distance, _one_data_set,
)  # fmt: skip
