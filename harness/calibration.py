"""How fast runs have been on this machine, kept in mlruns/calibration.json: what finished runs took enters, prices and their spread leave.

Runs alone write it, `--plan` only reads. It holds machines side by side, each known by what speed depends on. A file that is damaged is
left out with a note, and replaced by the next start that trains; a loss costs precision and nothing else: all of it is in the records too.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness import durable
from harness.errors import StorageError
from harness.pricing import MARGIN, Cost, DataSize, Work, work_s
from harness.record import Record
from harness.runspec import RunSpec, digest
from harness.strategies import strategies

FILE, FORMAT = "calibration.json", 1
# The last runs of a shape tell its price, so that a machine that was busy is forgotten; the last of all tell how far prices are off.
RUNS_A_SHAPE, RUNS_OF_SPREAD, MOST_SHAPES = 16, 64, 300
FEWEST_RUNS, FEWEST_STEPS = 3, 10
# Texts of another corpus whose length differs by less than this factor have the price of a token.
LENGTH_STEP = 1.25
# A normal distribution has half of its values within .6745 standard deviations, and 95 % within 1.96.
HALF, MOST = 0.6745, 1.96


@dataclass(frozen=True)
class Observation:
    """A run that has ended: its key, when, and seconds of a step (all that is nothing else included), of a text scored, of sets of samples.

    `mean_tokens`: of a text that it was trained on. `raw_s`: what its plan had priced its work at without a margin (None: no price known),
    `margin` and `known_runs` of that price; `time_s`: what it took. Samples are None where it drew none.
    """

    run: str
    time: float
    time_s: float
    step_s: float
    text_s: float
    sample_end_s: float | None
    sample_best_s: float | None
    mean_tokens: float
    process_bytes: int
    raw_s: float | None
    margin: float
    known_runs: int


@dataclass(frozen=True)
class Calibration:
    """What is known of this machine: observations by shape, oldest first. `note`: why a file that is there is not used, else empty."""

    shapes: Mapping[str, Sequence[Observation]] = field(default_factory=dict)
    note: str = ""

    @property
    def runs(self) -> int:
        """How many finished runs are behind it."""
        return sum(map(len, self.shapes.values()))

    @property
    def spread(self) -> float | None:
        """By what share 95 % of runs have missed their planned times at most; None where fewer than `FEWEST_RUNS` tell.

        From the median of |log(taken / planned)|, which a few runs beside a busy neighbour leave alone; a run weighs what it took.
        """
        errors = [(abs(math.log(one.time_s / (one.raw_s * one.margin))), one.time_s) for one in self._last() if one.raw_s]
        return math.expm1(weighted_median(errors) / HALF * MOST) if len(errors) >= FEWEST_RUNS else None

    @property
    def margin(self) -> float:
        """How much longer than measured runs took whose shape was measured in a few steps."""
        ratios = [(one.time_s / one.raw_s, one.time_s) for one in self._last() if one.raw_s and not one.known_runs]
        return weighted_median(ratios) if len(ratios) >= FEWEST_RUNS else MARGIN

    def cost(self, shape: str, mean_tokens: float, samples: Mapping[str, Any]) -> Cost | None:
        """The price of a shape by the runs that it has had; None where they can't tell all of it."""
        seen = self.shapes.get(shape, ())
        if len(seen) < FEWEST_RUNS:
            return None
        per_token = [(mean_tokens / one.mean_tokens * one.step_s, mean_tokens / one.mean_tokens * one.text_s) for one in seen]
        step_s, text_s = (float(value) for value in np.median(per_token, axis=0))
        ends = [one.sample_end_s for one in seen if one.sample_end_s is not None]
        bests = [one.sample_best_s for one in seen if one.sample_best_s is not None]
        if (samples["texts"] and not ends) or (samples["at_best"] and not bests):
            return None
        end_s, best_s = (float(np.median(values)) if values else 0.0 for values in (ends, bests))
        return Cost(step_s, text_s, end_s, best_s, max(one.process_bytes for one in seen), margin=1.0, runs=len(seen))

    def _last(self) -> list[Observation]:
        every = sorted((one for seen in self.shapes.values() for one in seen), key=lambda one: one.time)
        return every[-RUNS_OF_SPREAD:]


def weighted_median(values: Sequence[tuple[float, float]]) -> float:
    """The value at which half of the weight is reached, of pairs (value, weight)."""
    ordered = sorted(values)
    reached = np.cumsum([weight for _, weight in ordered])
    return ordered[int(np.searchsorted(reached, reached[-1] / 2))][0]


def trust(runs: int, spread: float | None) -> str:
    """How far the times of a plan are to be trusted: what they rest on, and by how much runs here have missed theirs."""
    if not runs:
        return "by a few steps of every rung (no run has ended here yet)"
    basis = f"(calibrated here, {runs} run{'s' if runs > 1 else ''})"
    if spread is None:
        return basis
    return f"+-{100 * spread:.0f} % {basis}" if spread < 1 else f"within a factor of {1 + spread:.1f} {basis}"


def shape_of(spec: RunSpec, mean_tokens: float, samples: Mapping[str, Any], crew: int = 1) -> str:
    """Equal for runs whose steps, evaluations and sets of samples take the same time on one machine. `crew`: how many train together."""
    same = ("arch", "shape", "vocab_size", "seq_len", "batch_size", "padding", "precision")
    facts = {name: spec.to_dict()[name] for name in same} | {"length": round(math.log(mean_tokens, LENGTH_STEP))}
    facts |= {"crew": crew} if crew > 1 else {}
    return digest(facts | {"samples": [samples["texts"], len(strategies(samples)), samples["at_best"]]})


def load(root: Path, machine: Mapping[str, Any]) -> Calibration:
    """What is kept under `root` of this machine; whatever can't be used is left out with a note."""
    path = root / FILE
    try:
        machines = _read(path)
    except FileNotFoundError:
        return Calibration()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not what was written"
        return Calibration(note=f"{path} can't be used ({why}): shapes are measured anew")
    own = machines.get(digest(dict(machine)))
    if own is None and machines:
        known = next(iter(machines.values()))["machine"]
        other = ", ".join(f"{name} {known.get(name)}" for name in machine if known.get(name) != machine[name])
        return Calibration(note=f"{path} knows other machines or settings only ({other}): shapes are measured anew")
    return Calibration({shape: [Observation(**one) for one in seen] for shape, seen in own["shapes"].items()} if own else {})


def keep(root: Path, machine: Mapping[str, Any], observed: Iterable[tuple[str, Observation]]) -> None:
    """Add runs that have ended to what is kept; those that it has are not counted twice, and the oldest go.

    Raises:
        StorageError: it can't be written.
    """
    path = root / FILE
    try:
        machines = _read(path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        machines = {}
    own = machines.setdefault(digest(dict(machine)), {"machine": dict(machine), "shapes": {}})
    before = json.dumps(own)
    for shape, one in observed:
        seen = own["shapes"].setdefault(shape, [])
        if not any(other["run"] == one.run and other["time"] == one.time for other in seen):
            seen.append(asdict(one))
    for shape, seen in own["shapes"].items():
        own["shapes"][shape] = sorted(seen, key=lambda one: float(one["time"]))[-RUNS_A_SHAPE:]
    latest = sorted(own["shapes"].items(), key=lambda item: float(item[1][-1]["time"]))
    own["shapes"] = dict(latest[-MOST_SHAPES:])
    if json.dumps(own) != before:
        content = {"format": FORMAT, "checksum": digest(machines), "machines": machines}
        durable.replace(path, json.dumps(content).encode(), "calibration")


def _read(path: Path) -> dict[str, Any]:
    """All machines of a file.

    Raises:
        OSError, ValueError, KeyError, TypeError: it is not there, or not what was written.
    """
    content = json.loads(path.read_bytes())
    machines: dict[str, Any] = content["machines"]
    if content["format"] != FORMAT or content["checksum"] != digest(machines):
        raise ValueError
    return machines


def learn(root: Path, machine: Mapping[str, Any], record: Record) -> str:
    """Keep what the record's runs tell of this machine; what is to be said about it, else empty."""
    try:
        keep(root, machine, observations(record, machine))
    except StorageError as error:
        return str(error)
    return ""


def observations(record: Record, machine: Mapping[str, Any]) -> list[tuple[str, Observation]]:
    """The runs of this machine that have ended and can tell what a run costs, each with its shape."""
    if "samples" not in record.study or "mean_tokens" not in record.data:
        return []
    here = {name for name, event in record.invocations.items() if event.get("machine") == dict(machine)}
    found = []
    for key in record.selected:
        started = record.started.get(key, {})
        if record.is_done(key) and started.get("invocation") in here and started.get("micro_batches", 1) == 1:
            one = _observation(record, key)
            if one is not None:
                spec = RunSpec.from_dict(started["spec"])
                found.append((shape_of(spec, record.data["mean_tokens"], record.study["samples"], crew_of(record, key)), one))
    return found


def _observation(record: Record, key: str) -> Observation | None:
    """What one run took; None where it was too short, or its record doesn't say."""
    ended, work = record.ended[key], work_of(record, key)
    parts = {part: float(wall) for part, (wall, _) in (ended.get("seconds") or {}).items()}
    if "evaluation" not in parts or work.steps < FEWEST_STEPS or not work.texts or not ended["time_s"]:
        return None
    ends, bests = parts.get("sampling_end"), parts.get("sampling_best")
    beside = parts["evaluation"] + (ends or 0.0) + (bests or 0.0)
    price = _planned(record, key)
    return Observation(
        run=key,
        time=ended["time"],
        time_s=ended["time_s"],
        # What is neither evaluation nor sampling is a price of steps: the start, saving, events.
        step_s=(ended["time_s"] - beside) / work.steps,
        text_s=parts["evaluation"] / work.texts,
        sample_end_s=ends,
        sample_best_s=bests / work.bests if bests is not None and work.bests else None,
        mean_tokens=record.data["mean_tokens"],
        process_bytes=price.process_bytes if price else 0,
        raw_s=work_s(price, work) / price.margin if price else None,
        margin=price.margin if price else MARGIN,
        known_runs=price.runs if price else 0,
    )


def crew_of(record: Record, key: str) -> int:
    """How many runs trained together when this one was given to a worker, itself included."""
    return len(record.started.get(key, {}).get("crew", ())) or 1


def _planned(record: Record, key: str) -> Cost | None:
    """What a run's rung was priced at, where the plan says so for this run's batches."""
    selected = record.selected[key]
    cost = next((rung.get("cost") for rung in record.plan["rungs"] if rung["rung"] == selected["rung"]), None)
    texts = selected["spec"]["batch_size"]
    own = record.study.get("train", {}).get("batch_size", texts)
    if not cost or (texts != own and cost.get("text_step_s") is None):
        return None
    return Cost(**cost).of_crew(crew_of(record, key)).of_batch(texts, own)


def work_of(record: Record, key: str) -> Work:
    """What a run that has ended did."""
    spec, evaluations, sets = record.selected[key]["spec"], len(record.evaluations[key]), record.samples[key]
    tested = record.data.get("n_test", 0) if record.ended[key].get("test_nll") is not None else 0
    bests = len({event["step"] for event in sets if event["at"] == "best"})
    return Work(
        record.ended[key].get("steps") or 0, evaluations * spec["eval_texts"] + tested, bests, int(any(e["at"] == "end" for e in sets))
    )


def planned_s(record: Record, key: str) -> float | None:
    """Seconds at the plan's prices of what a run did, be it all that was planned or less; None where no price is known."""
    price = _planned(record, key)
    return work_s(price, work_of(record, key)) if price else None


def costs(known: Calibration, specs: Mapping[str, RunSpec], size: DataSize, samples: Mapping[str, Any]) -> dict[str, Cost]:
    """The prices of the rungs whose shapes are known, by rung."""
    found = {rung: known.cost(shape_of(spec, size.mean_tokens, samples), size.mean_tokens, samples) for rung, spec in specs.items()}
    return {rung: cost for rung, cost in found.items() if cost is not None}
