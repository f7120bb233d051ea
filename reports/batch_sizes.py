"""Tokens needed to reach a loss against batch size, where a study searches both: as a table, as laws and in words."""

import pandas as pd

from harness.analysis.critical_batch import CriticalBatch, common_losses, critical_batch, tokens_to_reach
from harness.results import Results
from reports import style
from reports.numbers import fixed, listed, short

COLUMNS = ["rung", "place", "places", "loss", "batch_size", "batch", "tokens", "lr", "is_end"]


def reached(results: Results) -> pd.DataFrame:
    """A row per rung, loss and batch size: the fewest tokens of any trial."""
    trials = results.runs[results.runs["stage"] == "search"]
    constant = results.study.get("train", {}).get("schedule", "constant") == "constant"
    if trials["batch_size"].nunique() < 2 or not constant:
        return pd.DataFrame(columns=COLUMNS)
    evaluations = results.evaluations.merge(trials[["key", "batch_size"]], on="key")
    found = [tokens_to_reach(own, common_losses(own)).assign(rung=rung) for rung, own in evaluations.groupby("rung", sort=True)]
    frame = pd.concat(found) if found else pd.DataFrame(columns=COLUMNS)
    frame = frame.merge(style.places(results), on="rung")
    return frame.reindex(columns=COLUMNS).sort_values(["place", "loss", "batch"], ascending=[True, False, True], ignore_index=True)


def laws(frame: pd.DataFrame) -> list[tuple[str, CriticalBatch]]:
    """The law of each rung and loss, hardest loss last."""
    groups = frame.groupby(["place", "loss"], sort=True)
    found = [(str(rows["rung"].iloc[0]), critical_batch(rows)) for _, rows in groups]
    return sorted(found, key=lambda one: (frame.loc[frame["rung"] == one[0], "place"].iloc[0], -one[1].loss))


def sentence(frame: pd.DataFrame) -> str:
    """The critical batch of each rung, at the hardest loss that all batch sizes reached; empty where there is none."""
    said = []
    for rung, own in frame.groupby("place", sort=True):
        name, law = laws(frame[frame["place"] == rung])[-1]
        least = f"{name}, to {fixed(law.loss, 3)} nats a token"
        words = {
            "resolved": f"{short(law.batch)} tokens ({short(law.low)} to {short(law.high)}); at least {short(law.tokens)} tokens or "
            f"{short(law.steps)} steps",
            "below": f"over {short(law.low)} tokens, the largest batch tried",
            "above": f"under {short(law.high)} tokens, the smallest batch tried",
            "too few": f"unknown: {law.n} batch sizes reached it",
        }
        ends = sorted({f"{size:g}" for size in own.loc[own["is_end"] & (own["loss"] == law.loss), "batch_size"]}, key=float)
        censored = f" (the best rate is the outermost tried at {listed(ends)} texts)" if ends else ""
        said.append(f"{least}: {words[law.status]}{censored}.")
    return f"Critical batch, where steps and tokens are both twice their least: {' '.join(said)}" if said else ""
