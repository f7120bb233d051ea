"""YAML in, a frozen and validated Study out: what a study file may say, with the meaning, unit and range of each key.

The text under each field is its documentation: `docs/study.md` and the editors' schema are generated from it. The blocks `data` and `model`
have modules of their own.
Shapes, plans and prices follow from a Study in `plan`; nothing here looks at data, models or the machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from harness import _values as v
from harness import study_file
from harness._block import Block, misfit
from harness._values import parse_count, unique
from harness.held_out import LARGEST, NONE
from harness.spec_data import Data, Split
from harness.spec_model import ModelSpec, Shape, rung_name

__all__ = ["Data", "ModelSpec", "Shape", "Split", "Study", "load", "parse_count", "rung_name"]

Device = Literal["cpu", "cuda", "mps"]


def _filled(value: object) -> object:
    """`null` for a block that can be empty means the empty block."""
    return {} if value is None else value


class Train(Block):
    """How one run is trained. AdamW; its rate comes from `search`."""

    batch_size: v.BatchSize = 32
    """Texts in a step. 1 to 1,000,000."""
    epochs: v.EpochsOrNone = 40.0
    """At most so many passes over the training texts, > 0 and <= 1e9. null: no limit. The lowest of epochs, tokens and max_steps holds."""
    tokens: v.CountOrNone = None
    """At most so many training tokens, repeats counted, padding not. null: no limit."""
    max_steps: v.CountOrNone = None
    """At most so many optimizer steps. null: no limit."""
    min_steps: v.CountOrZero = 60
    """`within` leaves a rung out rather than cut a run below so many steps. It limits nothing else."""
    evaluations: v.Evaluations = 20
    """Evaluations in a run, equally spaced by step, the last at the end: 1 to 10,000; or every_epoch."""
    patience: v.CountOrNone = 10
    """Stop when more than so many evaluations in a row bring no better validation NLL. null: never."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """The learning rate after warm-up: constant, or falling to lr_min_fraction by cosine or linear."""
    warmup_fraction: v.Warmup = 0.0
    """Share of the steps in which the rate rises from 0 to its peak. 0 to 0.1."""
    lr_min_fraction: v.Fraction = 0.0
    """Where cosine and linear end, as a share of the peak. 0 to 1."""
    weight_decay: v.ZeroOrMore = 0.01
    """AdamW's decoupled weight decay. >= 0."""
    beta1: v.Momentum = 0.9
    """AdamW's first moment. 0 to below 1."""
    beta2: v.Momentum = 0.999
    """AdamW's second moment. 0 to below 1."""
    eps: v.Positive = 1e-8
    """AdamW's epsilon. > 0."""
    dropout: v.Momentum = 0.1
    """Share of activations dropped where the architecture has dropout. 0 to below 1."""
    grad_clip: v.PositiveOrNone = None
    """Clip the gradient's norm to this, > 0. null: no clipping."""
    padding: Literal["ignore", "learn"] = "ignore"
    """ignore: learn and count real tokens only. learn: all seq_len - 1 positions, as the assignment did, to compare with its table."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products: float32, bfloat16, or auto (bfloat16 where the device is built for it; the plan records which)."""

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.epochs is None and self.tokens is None and self.max_steps is None:
            raise misfit("epochs", "a run must end: give at least one of epochs, tokens and max_steps")
        return self


class LrRange(Block):
    """The range of peak learning rates, on a log scale."""

    low: v.Positive = 1e-5
    """Lowest rate tried. > 0."""
    high: v.Positive = 3e-2
    """Highest rate tried. > low."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if not self.low < self.high:
            raise misfit("low", f"must be below high ({self.high:g}), not {self.low:g}")
        return self


class Dimension(Block):
    """Where another key of `train` is searched: a range, or a list of choices."""

    low: v.NumberOrNone = None
    """Lowest value tried."""
    high: v.NumberOrNone = None
    """Highest value tried. > low."""
    log: bool = False
    """Whether the range is searched on a log scale; low is then > 0."""
    choices: tuple[float | int | str, ...] = ()
    """The values tried, instead of a range. At least two."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        ranged = self.low is not None and self.high is not None
        if ranged == bool(self.choices) or (self.choices and (self.low is not None or self.high is not None)):
            raise misfit("choices", "give low and high, or choices")
        if self.choices and len(set(self.choices)) < 2:
            raise misfit("choices", "give two different choices or more")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise misfit("low", f"must be below high ({self.high:g}), not {self.low:g}")
        if self.log and self.low is not None and self.low <= 0:
            raise misfit("low", f"must be > 0 on a log scale, not {self.low:g}")
        return self


# Keys of `train` that a search may vary beside the rate.
RANGED = ("weight_decay", "warmup_fraction", "lr_min_fraction", "beta1", "beta2", "eps", "dropout", "grad_clip")
SEARCHED = (*RANGED, "batch_size", "schedule")


class Search(Block):
    """The search for each rung's learning rate; every rung gets the same trials."""

    lr: LrRange = LrRange()
    """{low, high}: the range of peak rates."""
    trials: v.Trials = 12
    """Trials for each rung, at most 1,000. 0 (or search: null): no search, all runs at default_lr."""
    batch: v.TrialBatch = 4
    """Trials suggested at a time, before the sampler hears of their results. 1 to 1,000."""
    sampler: Literal["tpe", "gp", "qmc", "grid", "random"] = "tpe"
    """How rates are suggested: tpe, gp (a Gaussian process), qmc (evenly spread, of any number), grid or random."""
    pruner: Literal["none", "median", "halving"] = "median"
    """Which trials are ended early: none, median (those worse than the median) or halving (successive halving)."""
    default_lr: v.Positive = 1e-3
    """The untuned rate that each rung is also trained at, once, to compare. > 0."""
    extend: v.Extensions = 2
    """Where the best rate lies at an end of the range, the search goes on past it: at most so often, by a factor of 10^(1/2) with two
    further trials each time. Where the loss still falls at the highest rate below a cliff, the two go between. They are not
    pruned. 0 to 10; 0: never."""
    order: Literal["together", "in_turn"] = "together"
    """together: all rungs are searched side by side. in_turn: smallest first, each also trying the rate that the smaller ones predict."""
    transfer: Literal["measure", "predict"] = "measure"
    """measure: search every rung. predict: search the smallest rungs, in turn, and take the others' rate from the law that they show."""
    transfer_from: v.CountOrNone = None
    """predict: how many of the smallest rungs are searched, at least 2. null: all but the largest."""
    space: Annotated[dict[str, Dimension], BeforeValidator(_filled)] = {}  # noqa: RUF012
    """Other keys of train to search together with the rate, such as {train.weight_decay: {low: 1e-3, high: 1, log: true}} or
    {train.batch_size: {choices: [16, 32, 64]}}: weight_decay, warmup_fraction, lr_min_fraction, beta1, beta2, eps, dropout, grad_clip,
    batch_size or schedule (the last two by choices). The best trial's values are then used as they stand. {}: the rate alone."""

    @model_validator(mode="after")
    def _space_fits(self) -> Self:
        for key, dimension in self.space.items():
            name = key.removeprefix("train.")
            if not key.startswith("train.") or name not in SEARCHED:
                hint = " (the range of rates is search.lr)" if key in ("train.lr", "lr") else ""
                raise misfit("space", f"{key} can't be searched{hint}. There are: {', '.join(f'train.{one}' for one in SEARCHED)}")
            if name not in RANGED and not dimension.choices:
                raise misfit("space", f"{key} needs choices")
            for value in dimension.choices or (dimension.low, dimension.high):
                _check_train(key, name, value)
        if "train.batch_size" in self.space and self.pruner != "none":
            raise misfit("pruner", "steps of different batch sizes don't compare: searching train.batch_size needs search.pruner: none")
        if self.space and self.sampler == "grid":
            raise misfit("sampler", "a grid goes over rates alone: give another sampler, or leave search.space out")
        if self.transfer_from is not None and self.transfer_from < 2:
            raise misfit("transfer_from", f"a law needs two rungs or more, not {self.transfer_from}")
        if self.transfer == "predict" and not self.trials:
            raise misfit("transfer", "there is nothing to predict from without a search (search.trials)")
        return self


def _check_train(key: str, name: str, value: object) -> None:
    """A value that `train` itself would refuse is refused here, with its words."""
    try:
        Train.model_validate({name: value})
    except ValidationError as error:
        raise misfit("space", f"{key}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


class Budgets(Block):
    """A grid of data budgets, crossed with every rung; one of the two. {}: each run has what `train` says."""

    train_tokens: Annotated[tuple[v.Count, ...], v.SOME, unique("budget")] = ()
    """Training tokens of each budget, repeats counted."""
    train_flops: Annotated[tuple[v.Positive, ...], v.SOME, unique("budget")] = ()
    """Training FLOPs of each budget."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.train_tokens and self.train_flops:
            raise misfit("train_flops", "give train_tokens or train_flops, not both")
        return self


class Ablations(Block):
    """What is changed at the best rung (lowest mean validation NLL), at its rate, for all seeds."""

    train_texts: Annotated[tuple[v.Count, ...], v.SOME, unique("number of texts")] = ()
    """Train on only the first so many texts."""


class Samples(Block):
    """Texts that trained models write."""

    temperatures: Annotated[tuple[v.Positive, ...], v.SOME, unique("temperature")] = (0.01, 0.1, 0.5, 0.8, 1.0)
    """Sampling temperatures at the end of a run, each > 0. Tokens are drawn from all of the softmax."""
    top_k: Annotated[tuple[v.Count, ...], v.SOME, unique("top_k")] = ()
    """Further sets of texts at temperature 1, each drawn from so many of the likeliest tokens, >= 1."""
    top_p: Annotated[tuple[v.Mass, ...], v.SOME, unique("top_p")] = ()
    """Further sets at temperature 1, each drawn from the fewest likeliest tokens whose mass is at least so much, > 0 and <= 1 (nucleus
    sampling)."""
    texts: v.SampleCount = 64
    """Texts of each set, at most 10,000. 0: none."""
    at_best: v.SampleCount = 8
    """Texts at temperature 1 whenever validation NLL is the best so far, at most 10,000. 0: none."""


def _every_device(value: object) -> object:
    """`within: 15m` holds for every device; `within: null` is no limit anywhere."""
    return value if isinstance(value, dict | Within) else {"cpu": value, "cuda": value, "mps": value}


class Within(Block):
    """How long one invocation may take on each device, as 90s, 15m, 2h or 1h30m; null: no limit.

    The token budgets are cut by one common factor until the study fits.
    """

    cpu: v.Duration = "15m"
    """Without an accelerator."""
    cuda: v.Duration = None
    """On an NVIDIA GPU."""
    mps: v.Duration = None
    """On an Apple GPU."""

    def seconds(self, device: Device) -> float | None:
        """The limit on a device in seconds; None where there is none."""
        text: str | None = getattr(self, device)
        return None if text is None else v.duration_seconds(text)


class Checkpoints(Block):
    """How much of a run a crash may cost."""

    every_s: v.Positive = 30.0
    """Save each run so often, in seconds, > 0; a stopped study goes on from there."""
    every_steps: v.CountOrNone = None
    """Save each run also after every so many steps. null: by time alone."""


class Analysis(Block):
    """What is decided about the analysis before a run is trained."""

    held_out: v.RungText = "largest"
    """The rung that the law of all smaller ones must predict: largest, none, or the name of a rung. Changed after that rung has been
    trained it is no prediction any more, and the report says so."""


class Report(Block):
    """What is written at the end."""

    formats: Annotated[tuple[Literal["md", "pdf", "html"], ...], Field(min_length=1), unique("format")] = ("md", "pdf", "html")
    """md (Markdown with figures), pdf (typeset) and html (one page with all figures inside)."""


class Study(Block):
    """One study: one question, and all that is needed to answer it."""

    study: v.StudyName
    """Its name, the folder under mlruns/ and the MLflow experiment: at most 64 letters, digits, _ - and . (the first no - or .)."""
    question: Annotated[str, Field(min_length=1)]
    """What the study asks; the report repeats it beside the answer."""
    hypothesis: str = ""
    """What is expected, written before the first run."""
    data: Data = Data()
    """Which texts, how they are cleaned, split and turned into tokens."""
    model: ModelSpec
    """The architecture and the ladder of sizes."""
    train: Train = Train()
    """How one run is trained."""
    search: Annotated[Search, BeforeValidator(lambda v: {"trials": 0} if v is None else v, json_schema_input_type=Search | None)] = Search()
    """The search for each rung's learning rate. null: none, all runs at 1e-3."""
    seeds: v.Seeds = 3
    """Runs of each rung at its best rate, with seeds 0, 1, ... 1 to 1,000; 3 or more give an interval."""
    budgets: Annotated[Budgets, BeforeValidator(_filled, json_schema_input_type=Budgets | None)] = Budgets()
    """A grid of data budgets for every rung: {train_tokens: [...]} or {train_flops: [...]}. {}: none."""
    ablations: Annotated[Ablations, BeforeValidator(_filled, json_schema_input_type=Ablations | None)] = Ablations()
    """What is changed at the best rung. {}: nothing."""
    samples: Samples = Samples()
    """Texts that trained models write."""
    within: Annotated[Within, BeforeValidator(_every_device, json_schema_input_type=Within | str | None)] = Within()
    """Time limit of one invocation: {cpu: 15m, cuda: null}, or 15m for every device. null: no limit."""
    checkpoints: Checkpoints = Checkpoints()
    """How much of a run a crash may cost."""
    crew: v.Crew = "auto"
    """How many runs of one shape (trials of a batch, seeds) train together in one process, at most 1,000; decided when the plan is made.
    auto: measured on an accelerator, 1 on a CPU. Results are the same to 1e-6."""
    analysis: Analysis = Analysis()
    """What is decided about the analysis before a run is trained."""
    report: Report = Report()
    """What is written at the end."""

    @model_validator(mode="after")
    def _holds_out_a_rung(self) -> Self:
        names = [rung_name(rung) for rung in self.model.rungs]
        if self.analysis.held_out not in (LARGEST, NONE, *names):
            what = f"{self.analysis.held_out} is no rung of this study; there are {', '.join(names)}, or largest, or none"
            raise misfit("analysis.held_out", what)
        return self

    @model_validator(mode="after")
    def _one_law(self) -> Self:
        """A rate is predicted along one ladder: with two parametrizations there are two."""
        if self.model.parametrization == "both" and (self.search.order, self.search.transfer) != ("together", "measure"):
            what = "with model.parametrization: both the rungs are no single ladder to predict rates along"
            raise misfit("search", f"{what}; leave search.order and search.transfer out, or give one parametrization")
        return self


def load(path: Path | str, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file, with `key.path=value` overrides; StudyError names every mistake by file, line and key."""
    document = study_file.read(path, overrides)
    try:
        return Study.model_validate(document.data)
    except ValidationError as error:
        raise study_file.explain(error, document, Study) from None
