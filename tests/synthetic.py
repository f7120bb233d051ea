"""A study that never ran: tables that look like a real one, for tests of what reads results.

It holds what reports must survive: a diverged default at the largest rung, pruned and diverged trials, a skipped rung, an edge
and a flat optimum, samples of hostile text, an ablation and two invocations.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from harness.results import (
    EVALUATION_COLUMNS,
    FURTHER_COLUMNS,
    OBJECT_COLUMNS,
    PUBLIC_COLUMNS,
    SAMPLE_COLUMNS,
    SEARCH_COLUMNS,
    Results,
)

LADDER = {
    "20k": 20_412,
    "40k": 40_233,
    "87k-assignment": 87_289,
    "230k": 229_871,
    "557k-assignment": 556_919,
    "2M": 2_013_884,
    "5M-assignment": 5_097_821,
    "10M-assignment": 10_122_749,
    "40M": 39_871_204,
}
HOSTILE = [
    "# not a heading * not a bullet _not_ **bold**",
    "pipes | and $dollars$ @mentions <b>html</b> [link](http://x.y) \\ back \"quotes\" 'single'",
    '#read("/etc/passwd") #panic() ``` `code` <script>alert(1)</script> &amp; ~~gone~~',
    "- 1. > = + ! {x} :smile: *#_]",
]
WORDS = ["minister", "bank", "storm", "talks", "vote", "river", "police", "mayor", "strike", "harbour", "budget", "court", "flood"]
TEMPERATURES = (0.01, 0.1, 0.5, 0.8, 1.0)
DEFAULT_LR = 1e-3
TRAIN_TEXTS = 25_600
STEPS = 800
EVALUATIONS = 20
TOKENS_PER_STEP = 1_540
MEAN_TOKENS = 48.1
FLOOR = 71.3
# Nats a text that the last doubling of tokens and all further ones would bring, in a grid of budgets.
PER_TOKENS = 30.0


class _Maker:
    """Builds the rows of a study, one run at a time."""

    def __init__(self, n_rungs: int, seed: int, seeds: int, padded: bool, floor: bool, batches: tuple[int, ...] = ()) -> None:
        self.rng = np.random.default_rng(seed)
        self.trained = list(LADDER)[:n_rungs]
        self.skipped = list(LADDER)[n_rungs]
        self.seeds, self.padded, self.floor, self.batches = seeds, padded, floor, batches or (32,)
        self.runs: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.searches: list[dict[str, Any]] = []

    def nll(self, rung: str) -> float:
        return FLOOR + 150 * math.exp(-0.2 * math.log(LADDER[rung]))

    def best_lr(self, rung: str) -> float:
        place = self.trained.index(rung)
        if len(self.trained) > 2 and place == 0:
            return 3e-2
        if len(self.trained) < 4:
            return float(f"{0.005 * (LADDER[rung] / 20_000) ** -0.6:.1e}")
        # The last rung but one is best at the default rate itself.
        return float(f"{DEFAULT_LR * (LADDER[rung] / LADDER[self.trained[-2]]) ** -0.6:.1e}")

    def run(self, rung: str, stage: str, lr: float, seed: int, **cells: Any) -> dict[str, Any]:
        name = f"{rung}-{cells.get('train_texts', 'all')}-s{seed}-lr{lr:.1e}"
        row = {
            **_shape(rung), "stage": stage, "status": "completed", "name": name,
            "train_texts": TRAIN_TEXTS, "seed": seed, "lr": lr, "batch_size": 32, "steps": STEPS, "best_step": STEPS,
            "epochs": STEPS * 32 / TRAIN_TEXTS, "train_tokens": STEPS * TOKENS_PER_STEP, "unique_tokens": int(TRAIN_TEXTS * MEAN_TOKENS),
            "train_flops": 6.6 * LADDER[rung] * STEPS * TOKENS_PER_STEP, "time_s": 20 + LADDER[rung] / 4_000 + self.rng.uniform(0, 3),
            "tokens_per_second": 5e9 / LADDER[rung],
        }  # fmt: skip
        row["key"] = f"{len(self.runs):04x}{LADDER[rung]:08x}"
        row["tokens_per_param"] = row["train_tokens"] / row["n_params"]
        self.runs.append(row | cells)
        return self.runs[-1]

    def measure(self, row: dict[str, Any], nll: float, tested: bool = True) -> None:
        """Fill the metrics of a run that ends at `nll` nats a text, and its evaluations."""
        top1 = _top1(nll)
        row |= {"val_nll": nll + 0.3, "val_loss": (nll + 0.3) / MEAN_TOKENS, "val_top1": top1, "val_bits_per_char": nll / 46 / math.log(2)}
        if tested:
            row |= {"test_nll": nll, "test_loss": nll / MEAN_TOKENS, "test_nll_se": 0.41, "test_top1": top1 - 0.002}
            row["test_bits_per_char"] = nll / 46 / math.log(2)
        if tested and self.floor:
            row |= {"floor_nll": FLOOR, "floor_top1": 0.634, "floor_gap": nll - FLOOR, "floor_gap_se": 0.12}
        if tested and self.padded:
            row |= {"nll_padded": nll + 0.4, "top1_padded": 0.68 + 0.33 * top1}
        self._evaluate(row, nll)

    def _evaluate(self, row: dict[str, Any], nll: float) -> None:
        count = EVALUATIONS if row["status"] == "completed" else 6
        values = []
        # A batch of 64 texts is the critical one.
        share, needed = row["batch_size"] / 32, (1 + row["batch_size"] / 64) / 1.5
        for i in range(1, count + 1):
            at = nll + 0.3 + 18 * (i / EVALUATIONS / needed) ** -0.5 - 18 + self.rng.normal(0, 0.15)
            top1 = _top1(at) + self.rng.normal(0, 0.002)
            step = int(STEPS / share) * i // EVALUATIONS
            values.append((at, top1))
            self.evaluations.append(
                {k: row.get(k) for k in ("key", "stage", "rung", "family", "n_params", "lr", "lr_source", "seed", "train_texts", "trial")}
                | {"step": step, "tokens": int(step * share * TOKENS_PER_STEP) + int(self.rng.integers(0, 900))}
                | {"epoch": step * 32 * share / TRAIN_TEXTS}
                | {"flops": row["train_flops"] * i / EVALUATIONS, "train_loss": (at - 0.4) / MEAN_TOKENS, "val_loss": at / MEAN_TOKENS}
                | {"val_nll": at, "val_top1": top1, "val_bits_per_char": at / 46 / math.log(2), "best": i == count}
            )
        if row["stage"] != "search" and len(values) > 2:
            row["pearson_nll_top1"] = float(np.corrcoef(np.array(values).T)[0, 1])

    def search(self, rung: str) -> None:
        best, place = self.best_lr(rung), self.trained.index(rung)
        status = {0: "edge", 2: "flat"}.get(place, "resolved") if len(self.trained) > 2 else "resolved"
        counts = dict.fromkeys(("completed", "pruned", "diverged", "failed"), 0)
        for trial, lr in enumerate(np.geomspace(1e-5, 3e-2, 12)[self.rng.permutation(12)]):
            away = math.log10(lr / best)
            state = "diverged" if away > 0.9 else "pruned" if away < -1.5 else "completed"
            reason = {"diverged": "the gradient norm was not finite at step 212", "pruned": "worse than the median at step 240"}.get(state)
            row = self.run(rung, "search", float(lr), 0, trial=trial, status=state, reason=reason, time_s=14.0)
            row["batch_size"] = self.batches[trial % len(self.batches)]
            counts[state] += 1
            if state != "diverged":
                self.measure(row, self.nll(rung) + 9 * away**2 * (3 if away > 0 else 1) + self.rng.normal(0, 0.05), tested=False)
        fitted = status == "resolved"
        verdict = {"edge": "edge: best trial 0.03", "flat": "flat: losses differ by less than their noise"}
        self.searches.append(
            {"rung": rung, "family": "assignment", "n_params": LADDER[rung], "lr": best, "lr_status": status, "trials": 12, **counts}
            | {"reason": verdict.get(status, f"resolved: minimum {best:.2g}")}
            | {"best_lr": best, "best_val_loss": self.nll(rung) / MEAN_TOKENS}
            | {
                "fitted_lr": best if fitted else None,
                "fitted_low": best / 1.4 if fitted else None,
                "fitted_high": best * 1.5 if fitted else None,
            }
            | {"fitted_val_loss": self.nll(rung) / MEAN_TOKENS if fitted else None, "low": 1e-5, "high": 3e-2, "default_lr": DEFAULT_LR}
            | {"highest_stable_lr": min(best * 7, 3e-2), "lr_source": "tuned", "extended": 0, "extension_trials": 0, "collapsed": 0}
            | {"cliff_lr": best * 8 if best * 8 < 3e-2 else None, "regret": 0.0, "noise": 0.002, "seed_noise": 0.012}
            | {"default_regret": 9 * math.log10(best / DEFAULT_LR) ** 2 / MEAN_TOKENS if fitted else None, "values": {}, "importances": {}}
        )

    def ladder(self, rung: str) -> None:
        search = next(row for row in self.searches if row["rung"] == rung)
        largest = rung == self.trained[-1]
        for seed in range(self.seeds):
            row = self.run(rung, "ladder", search["lr"], seed, lr_source="tuned", lr_status=search["lr_status"])
            self.measure(row, self.nll(rung) + self.rng.normal(0, 0.12))
            self.sample(row)
        if search["lr"] == DEFAULT_LR:
            return
        reason = "the smoothed training loss rose 1.3 nats a token above its minimum at step 212" if largest else None
        row = self.run(rung, "ladder", DEFAULT_LR, 0, lr_source="default", status="diverged" if largest else "completed", reason=reason)
        self.measure(row, self.nll(rung) + (60.0 if largest else 9 * math.log10(search["lr"] / DEFAULT_LR) ** 2))

    def grid(self, rung: str, shares: tuple[float, ...]) -> None:
        """The loss falls with tokens as D^-0.3, beside its fall with size."""
        for share in shares:
            for seed in range(self.seeds):
                lr, steps = self.best_lr(rung), int(STEPS * share)
                tokens = int(steps * TOKENS_PER_STEP)
                cells = {"steps": steps, "best_step": steps, "train_tokens": tokens, "train_flops": 6.6 * LADDER[rung] * tokens}
                row = self.run(rung, "budget", lr, seed, lr_source="tuned", lr_status="resolved", **cells)
                row |= {"epochs": share, "tokens_per_param": tokens / row["n_params"]}
                self.measure(row, self.nll(rung) + PER_TOKENS * (share**-0.3 - 1) + self.rng.normal(0, 0.12))

    def ablation(self) -> None:
        rung = self.trained[-1]
        for texts in (1_000, 4_000):
            for seed in range(self.seeds):
                row = self.run(rung, "ablation", self.best_lr(rung), seed, train_texts=texts, lr_source="tuned", lr_status="resolved")
                row["best_step"] = STEPS // 2
                self.measure(row, self.nll(rung) + 14_000 / texts + self.rng.normal(0, 0.3))

    def sample(self, row: dict[str, Any]) -> None:
        place = self.trained.index(row["rung"])
        common = {k: row.get(k) for k in ("key", "stage", "rung", "n_params", "seed", "lr_source", "train_texts")}
        sets = [("end", t, STEPS) for t in TEMPERATURES] + [("best", 1.0, STEPS * i // EVALUATIONS) for i in range(1, EVALUATIONS + 1)]
        for at, temperature, step in sets:
            self.samples.append(
                common
                | {"at": at, "step": step, "tokens": step * TOKENS_PER_STEP, "temperature": temperature, "texts": self._texts(8)}
                | {"distinct_1": 0.1 * temperature, "distinct_2": 0.9 * temperature / (temperature + 0.3), "distinct_3": 0.95 * temperature}
                | {"known_words": 1 - 0.3 * temperature / (1 + place), "copied": 0.02 * place * (1 - temperature)}
                | {"mean_length": 30 + 16 * temperature + place, "ended": 0.98, "entropy": 1.7 * temperature / (1 + 0.1 * place)}
                | {"memorised": 0.8 - 0.5 * temperature, "self_nll": self.nll(row["rung"]) * (0.3 + 0.7 * temperature)}
            )

    def _texts(self, n: int) -> list[str]:
        drawn = [" ".join(self.rng.choice(WORDS, int(self.rng.integers(4, 9)))) for _ in range(n)]
        return [HOSTILE[int(self.rng.integers(len(HOSTILE)))], *drawn[1:]]


def synthetic_results(
    n_rungs: int = 4,
    seed: int = 0,
    *,
    seeds: int = 3,
    padded: bool = False,
    floor: bool = True,
    budgets: tuple[float, ...] = (),
    batches: tuple[int, ...] = (),
) -> Results:
    """A study of `n_rungs` trained rungs and one skipped; `padded` fills the metrics that count padding, `floor` those of a known
    distribution. `budgets`: further token budgets of every rung, as shares of its own. `batches`: batch sizes that were searched."""
    make = _Maker(n_rungs, seed, seeds, padded, floor, batches)
    for rung in make.trained:
        make.search(rung)
    for rung in make.trained:
        make.ladder(rung)
        make.grid(rung, budgets)
    make.ablation()
    skipped = {**_shape(make.skipped), "key": "", "stage": "ladder", "status": "skipped", "reason": "needs 40 h (within: 15m)"}
    make.runs.append(skipped)
    return Results(
        study=_study(make),
        plan=_plan(make),
        data=_data(floor),
        runs=_frame(make.runs, [*PUBLIC_COLUMNS, *FURTHER_COLUMNS]),
        evaluations=_frame(make.evaluations, EVALUATION_COLUMNS),
        samples=_frame(make.samples, SAMPLE_COLUMNS),
        searches=_frame(make.searches, SEARCH_COLUMNS),
        invocations=_invocations(),
    )


def in_both(results: Results) -> Results:
    """The same study with a twin in muP of every trained rung, which came to the same end."""
    names = {rung["rung"] for rung in results.plan["rungs"] if not rung["skipped"]}

    def doubled(table: pd.DataFrame) -> pd.DataFrame:
        twins = table[table["rung"].isin(names)].assign(rung=lambda rows: rows["rung"] + "-mup")
        if "key" in table:
            twins["key"] = "m" + twins["key"]
        both = (
            [table.assign(parametrization="standard"), twins.assign(parametrization="mup")]
            if "parametrization" in table
            else [table, twins]
        )
        return pd.concat(both, ignore_index=True)

    twins = [rung | {"rung": f"{rung['rung']}-mup", "mup_base": {"d_model": 20}} for rung in results.plan["rungs"] if rung["rung"] in names]
    tables = {name: doubled(getattr(results, name)) for name in ("runs", "evaluations", "samples", "searches")}
    return replace(results, plan={**results.plan, "rungs": [*results.plan["rungs"], *twins]}, **tables)


def _top1(nll: float) -> float:
    return 0.62 * math.exp((FLOOR - nll) / 90)


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows).reindex(columns=columns)
    for column in set(columns) - OBJECT_COLUMNS - {"best"}:
        frame[column] = pd.to_numeric(frame[column])
    return frame


def _shape(rung: str) -> dict[str, Any]:
    n = LADDER[rung]
    family = "assignment" if rung.endswith("-assignment") else "solved"
    shape = {"n_layer": 5, "d_model": 20, "n_head": 5, "d_head": 20, "d_ff": n // 250}
    counts = {"n_params": n, "non_embedding_params": n - 4_189, "embedding_params": 3_580, "head_params": 609}
    return {"rung": rung, "family": family, "arch": "decoder", **shape, **counts}


def _study(make: _Maker) -> dict[str, Any]:
    return {
        "study": "scaling",
        "question": "How do NLL and top-1 accuracy change with size and data, once every size has its own learning rate?",
        "hypothesis": "Loss falls as a power of N; the best learning rate falls with N; 1e-3 is too high at 10M.",
        "data": {"source": "wire", "path": None, "texts": 32_000, "seq_len": 150, "eval_texts": 512},
        "model": {"arch": "decoder", "rungs": [*make.trained, make.skipped]},
        "train": {"batch_size": 32, "epochs": 40, "patience": 10, "schedule": "constant", "padding": "learn" if make.padded else "ignore"},
        "search": {"lr": {"low": 1e-5, "high": 3e-2}, "trials": 12, "default_lr": DEFAULT_LR},
        "seeds": make.seeds,
        "budgets": {},
        "ablations": {"train_texts": [1_000, 4_000]},
        "samples": {"temperatures": list(TEMPERATURES), "texts": 64},
        "within": {"cpu": "15m", "cuda": None},
        "report": {"formats": ["md", "pdf"]},
    }


def _plan(make: _Maker) -> dict[str, Any]:
    rungs = []
    for rung in [*make.trained, make.skipped]:
        shape, n = _shape(rung), LADDER[rung]
        fields = ("n_layer", "d_model", "n_head", "d_head", "d_ff")
        counts = ("n_params", "non_embedding_params", "embedding_params", "head_params")
        rungs.append(
            {"rung": rung, "family": shape["family"], "arch": "decoder", "shape": {k: shape[k] for k in fields}}
            | {k: shape[k] for k in counts}
            | {"parameters": {"embedding": 3_580, "blocks": n - 4_189, "head": 609}, "steps": STEPS, "epochs": 1.0}
            | {"train_tokens": STEPS * TOKENS_PER_STEP, "tokens_per_param": STEPS * TOKENS_PER_STEP / n, "runs": 12 + make.seeds + 1}
            | {"train_flops": 6.6 * n * STEPS * TOKENS_PER_STEP, "estimated_s": 16 * (22 + n / 4_000), "step_s": 0.07, "memory_bytes": 4e8}
            | {"skipped": "needs 40 h (within: 15m)" if rung == make.skipped else None}
        )
    return {
        "rungs": rungs, "ablation_runs": 2 * make.seeds,
        "cut": 8, "within_s": 900.0, "estimated_s": 850.0, "workers": 2, "threads": 1, "device": "cpu",
        "precision": "float32", "machine": "2 cores, x86_64, 8 GB", "created": "2026-11-22T09:00:00+00:00",
        "versions": {"python": "3.11.7", "torch": "2.13.0", "harness": "0.1.0"}, "git": {"commit": "0123456789abcdef", "dirty": False},
    }  # fmt: skip


def _data(floor: bool) -> dict[str, Any]:
    return {
        "source": "wire", "licence": "MIT (generated by this project)", "revision": "1", "fingerprint": "91be02" + "0" * 58,
        "vocab_size": 30,
        "seq_len": 150, "n_train": TRAIN_TEXTS, "n_validation": 3_200, "n_test": 3_200, "eval_texts": 512, "mean_tokens": MEAN_TOKENS,
        "counts": {"read": 32_000, "empty": 0, "duplicates": 0, "removed_validation": 0, "removed_test": 0, "cut": 0, "unknown": 0},
        "notices": [], "unigram_entropy": 2.87,
        "floor": {"nll": FLOOR, "nll_se": 0.5, "top1": 0.634, "loss": FLOOR / MEAN_TOKENS} if floor else None,
    }  # fmt: skip


def _invocations() -> pd.DataFrame:
    command = "python -m harness.run studies/scaling.yaml"
    return pd.DataFrame(
        [
            {
                "started": "2026-11-22T09:00:00+00:00",
                "seconds": 412.0,
                "exit_code": 130,
                "command": command,
                "host": "node7",
                "completed": 31,
            },
            {
                "started": "2026-11-22T09:20:00+00:00",
                "seconds": 466.0,
                "exit_code": 0,
                "command": command,
                "host": "node7",
                "completed": 40,
            },
        ]
    )


def change(results: Results, rows: pd.Series, **cells: object) -> Results:
    """The same results with some cells of some runs replaced."""
    runs = results.runs.copy()
    for column, value in cells.items():
        runs.loc[rows, column] = value
    return replace(results, runs=runs)
