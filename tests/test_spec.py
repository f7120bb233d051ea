"""What a Study accepts, what it refuses and with which sentence, and that it survives being written and read again."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from harness import reference
from harness.errors import StudyError
from harness.spec import Data, LrRange, ModelSpec, Search, Shape, Split, Study, Within, load, parse_count, rung_name

STUDIES = sorted((Path(__file__).parents[1] / "studies").glob("*.yaml"))
MINIMAL = "study: s\nquestion: Why?\nmodel: {rungs: [20k]}\n"


def load_text(tmp_path: Path, text: str, *overrides: str) -> Study:
    """The study in a text, read as users do: from a file."""
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, overrides)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_are_valid_and_survive_writing_and_reading(path: Path, tmp_path: Path) -> None:
    study = load(path)
    assert study.study == path.stem
    plain = study.model_dump(mode="json")
    assert Study.model_validate(plain) == study
    assert Study.model_validate_json(study.model_dump_json()) == study
    assert load_text(tmp_path, json.dumps(plain, ensure_ascii=False)) == study
    assert load_text(tmp_path, yaml.safe_dump(plain, allow_unicode=True)) == study


def test_a_minimal_study_has_the_defaults_of_the_documented_example(tmp_path: Path) -> None:
    minimal = load_text(tmp_path, MINIMAL).model_dump()
    scaling = load(next(path for path in STUDIES if path.stem == "scaling")).model_dump()
    differ = {key for key in scaling if minimal[key] != scaling[key]}
    assert differ == {"study", "question", "hypothesis", "model", "ablations", "data", "train"}
    # The study is tuned to two cores; all else is the default.
    assert scaling["data"] | {"eval_texts": 512} == minimal["data"]
    assert scaling["train"] | {"min_steps": 60, "evaluations": 20} == minimal["train"]
    assert scaling["ablations"] == {"train_texts": (1000, 4000)} and minimal["ablations"] == {"train_texts": ()}


def test_the_assignments_own_data_runs_on_a_file_instead(tmp_path: Path) -> None:
    by_hand = ["data.source=file", "data.path=x.csv", "data.column=text", "data.clean=[lower,letters]"]
    study = load(STUDIES[[p.stem for p in STUDIES].index("scaling")], by_hand)
    assert (study.data.source, study.data.path, study.data.text_columns) == ("file", "x.csv", ("text",))
    assert study.data.clean == ("lower", "letters") and study.data.texts == 32000


def test_a_study_is_frozen_and_hashable() -> None:
    study = Study(study="s", question="q", model=ModelSpec(rungs=("20k",)))
    with pytest.raises(ValidationError):
        study.seeds = 4
    assert hash(study.data) == hash(Data())


@pytest.mark.parametrize(
    ("text", "count"), [("500k", 500_000), ("2M", 2_000_000), ("1.5M", 1_500_000), ("87K", 87_000), ("1b", 10**9), ("12345", 12345)]
)
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "k", "0k", "-5k", "5kk", "5e6", "1,5M", "87k-assignment", "\u0661k", " 5k", "99999999999999B"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match="must be a count such as 500k"):
        parse_count(text)


def test_within_gives_seconds() -> None:
    within = Within(cpu="1h30m", cuda="90s", mps=None)
    assert [within.seconds(device) for device in ("cpu", "cuda", "mps")] == [5400.0, 90.0, None]


@pytest.mark.parametrize(("value", "seconds"), [("null", [None] * 3), ("10m", [600.0] * 3), ("{cuda: 2h}", [900.0, 7200.0, None])])
def test_within_for_all_devices(tmp_path: Path, value: str, seconds: list[float | None]) -> None:
    within = load_text(tmp_path, MINIMAL, f"within={value}").within
    assert [within.seconds("cpu"), within.seconds("cuda"), within.seconds("mps")] == seconds


def test_no_search_is_no_trials(tmp_path: Path) -> None:
    assert load_text(tmp_path, MINIMAL, "search=null").search.trials == 0
    assert load_text(tmp_path, MINIMAL, "search.trials=0").search.trials == 0


def test_parts_are_shares_counts_or_splits(tmp_path: Path) -> None:
    hub = ["data.source=hub", "data.path=a/b", "data.columns=[t]", "data.validation={split: dev}"]
    assert load_text(tmp_path, MINIMAL, *hub).data.validation == Split(split="dev")
    data = load_text(tmp_path, MINIMAL, "data.validation=500", "data.test=null").data
    assert (data.validation, data.test, type(data.validation)) == (500, 0, int)


def test_rungs_are_targets_names_or_shapes(tmp_path: Path) -> None:
    shape = "{name: wide, n_layer: 1, d_model: 8, n_head: 2, d_ff: 64}"
    study = load_text(tmp_path, MINIMAL, f"model.rungs=[20k, 87k-assignment, 30000, {shape}]")
    assert [rung_name(rung) for rung in study.model.rungs] == ["20k", "87k-assignment", "30000", "wide"]
    assert study.model.rungs[3] == Shape(name="wide", n_layer=1, d_model=8, n_head=2, d_ff=64, d_head=None)


def test_whole_numbers_may_have_an_exponent(tmp_path: Path) -> None:
    study = load_text(tmp_path, MINIMAL, "budgets={train_tokens: [1e6, 4e6]}", "train.epochs=0.5")
    assert study.budgets.train_tokens == (1_000_000, 4_000_000) and study.train.epochs == 0.5
    assert all(type(n) is int for n in study.budgets.train_tokens)


REFUSED: list[tuple[str, str, str]] = [
    ("study=a/b", "study", "must be a name of at most 64 letters, digits, _ - and . (the first no - or .), not 'a/b'"),
    ("study=..", "study", "must be a name"),
    ("study=artifacts", "study", "artifacts is taken under mlruns/; give the study another name"),
    ("study=-x", "study", "must be a name"),
    ("study=.hidden", "study", "must be a name"),
    ("study=" + "x" * 65, "study", "must be a name"),
    ('study="a\\n"', "study", "must be a name"),
    ("question=", "question", "must be text, not null"),
    ("question=''", "question", "must not be empty"),
    ("seeds=true", "seeds", "must be a whole number >= 1, not true"),
    ("seeds=2.5", "seeds", "must be a whole number >= 1, not 2.5"),
    ("seeds='3'", "seeds", "must be a whole number >= 1, not '3'"),
    ("seeds=abc", "seeds", "must be a whole number >= 1, not 'abc'"),
    ("seeds=null", "seeds", "must be a whole number >= 1, not null"),
    ("seeds=1001", "seeds", "must be a whole number >= 1 and <= 1,000, not 1001"),
    ("search.trials=1e6", "search.trials", "must be a whole number >= 0 and <= 1,000, not 1000000"),
    ("samples.texts=1e9", "samples.texts", "must be a whole number >= 0 and <= 10,000"),
    ("data.seq_len=1e9", "data.seq_len", "must be a whole number >= 3 and <= 1,000,000"),
    ("data.texts=1e8", "data.texts", "source wire makes at most 10,000,000 texts, not 100,000,000"),
    (f"budgets.train_flops={[*range(1, 102)]}", "budgets.train_flops", "must be a list of at most 100 items"),
    ("seeds=1e300", "seeds", "must be a whole number >= 1, not 1e+300"),
    ("seeds=[1]", "seeds", "must be a whole number >= 1, not a list"),
    ("data=5", "data", "must be a mapping of keys, not 5"),
    ("data.texts=0", "data.texts", "must be a whole number >= 1 or null, not 0"),
    ("data.seq_len=2", "data.seq_len", "must be a whole number >= 3, not 2"),
    ("data.source=wires", "data.source", "unknown data source 'wires'. Did you mean wire? There are:"),
    ("data.tokenizer=chr", "data.tokenizer", "unknown tokenizer 'chr'. Did you mean char? There are:"),
    ("data.source=file", "data.path", "source file needs a file (data.path)"),
    ("data={source: hub, path: a/b}", "data.columns", "source hub needs the columns that hold text"),
    ("data={source: file, path: a, column: b, columns: [c]}", "data.columns", "give column or columns, not both"),
    ("data={source: file, path: a, validation: {split: v}}", "data.validation", "source file has no splits of its own"),
    ("data.path=x.csv", "data.path", "source wire makes its own texts"),
    ("data.clean=[lower]", "data.clean", "leave out clean (clean: [])"),
    ("data.clean=[lower, stopword]", "data.clean.1", "not 'stopword'. Did you mean stopwords?"),
    ("data.clean=[lower, lower]", "data.clean", "the step lower is given twice"),
    ("data.clean=lower", "data.clean", "must be a list, not 'lower'"),
    ("data.validation=0", "data.validation", "must be a share between 0 and 1, a whole number of texts, or {split: name}, not 0"),
    ("data.validation=1.5", "data.validation", "must be a share"),
    ("data.validation=true", "data.validation", "must be a share"),
    ("data.validation={spilt: a}", "data.validation.spilt", "unknown key. Did you mean data.validation.split?"),
    ("data.test=-1", "data.test", "must be a share"),
    ("data.test=false", "data.test", "must be a share"),
    ("model.arch=decodr", "model.arch", "unknown architecture 'decodr'. Did you mean decoder?"),
    ("model.family=3", "model.family", "must be the name of a family or a mapping of its choices, not 3"),
    ("model.family={norm: 1.5}", "model.family", "norm must be text"),
    ("model.rungs=[]", "model.rungs", "must not be empty"),
    ("model.rungs=20k", "model.rungs", "must be a list, not '20k'"),
    ("model.rungs=[20k, 20K]", "model.rungs", "the rung 20k is given twice"),
    ("model.rungs=[../x]", "model.rungs.0", "must be a target such as 500k, the name of a shape"),
    ("model.rungs=[0k]", "model.rungs.0", "must be a count such as 500k or 2M, not '0k'"),
    ("model.parametrization=mp", "model.parametrization", "must be standard, mup or both, not 'mp'. Did you mean mup?"),
    ("model.parametrization=mup", "model.parametrization", "mup needs model.mup_base, a model size to compare widths with"),
    ("model.mup_base=20k", "model.mup_base", "only mup compares with a base"),
    ("model.mup_base=../x", "model.mup_base", "must be a target such as 500k, the name of a shape"),
    ("model.rungs=[{name: a, n_layer: 1}]", "model.rungs.0.d_model", "this key is required"),
    ("train.epochs=null", "train.epochs", "a run must end: give at least one of epochs, tokens and max_steps"),
    ("train.epochs=.inf", "train.epochs", "must be a number > 0 and <= 1e9 or null, not inf"),
    ("train.epochs=.nan", "train.epochs", "must be a number > 0 and <= 1e9 or null, not nan"),
    ("train.eps=1e999", "train.eps", "must be a number > 0, not inf"),
    ("train.warmup_fraction=0.2", "train.warmup_fraction", "must be a number from 0 to 0.1"),
    ("train.dropout=1", "train.dropout", "must be a number >= 0 and < 1, not 1"),
    ("train.evaluations=every_epcoh", "train.evaluations", "must be a whole number from 1 to 10,000 or every_epoch, not 'every_epcoh'"),
    ("train.schedule=cosin", "train.schedule", "must be constant, cosine or linear, not 'cosin'. Did you mean cosine?"),
    ("train.padding=no", "train.padding", "must be ignore or learn, not 'no'"),
    ("search.lr={low: 1e-2, high: 1e-3}", "search.lr.low", "must be below high (0.001), not 0.01"),
    ("search.lr=1e-3", "search.lr", "must be a mapping of keys, not 0.001"),
    ("search.lr.low=0", "search.lr.low", "must be a number > 0, not 0"),
    ("search.batch=0", "search.batch", "must be a whole number >= 1, not 0"),
    ("budgets={train_tokens: [1], train_flops: [1]}", "budgets.train_flops", "give train_tokens or train_flops, not both"),
    ("budgets={train_tokens: [5, 5]}", "budgets.train_tokens", "the budget 5 is given twice"),
    ("samples.top_k=[0]", "samples.top_k.0", "must be a whole number >= 1, not 0"),
    ("samples.top_k=[2.5]", "samples.top_k.0", "must be a whole number >= 1, not 2.5"),
    ("samples.top_k=5", "samples.top_k", "must be a list, not 5"),
    ("samples.top_k=[5, 5]", "samples.top_k", "the top_k 5 is given twice"),
    ("samples.top_p=[0]", "samples.top_p.0", "must be a number > 0 and <= 1, not 0"),
    ("samples.top_p=[0.9, 1.1]", "samples.top_p.1", "must be a number > 0 and <= 1, not 1.1"),
    ("samples.top_q=[1]", "samples.top_q", "unknown key. Did you mean samples.top_"),
    ("samples.temperatures=[0]", "samples.temperatures.0", "must be a number > 0, not 0"),
    ("within.cpu=1:30", "within.cpu", "must be a duration such as 90s, 15m, 2h or 1h30m, not '1:30'"),
    ("within.cpu=15", "within.cpu", "must be a duration such as 90s, 15m, 2h or 1h30m, or null, not 15"),
    ("within.cpu=0m", "within.cpu", "must be a duration"),
    ("within.cpu=''", "within.cpu", "must be a duration"),
    ("within.gpu=5m", "within.gpu", "unknown key. Did you mean within.cpu?"),
    ("analysis.held_out=3M", "analysis.held_out", "3M is no rung of this study; there are 20k, "),
    ("analysis.held_out=null", "analysis.held_out", "must be"),
    ("report.formats=[docx]", "report.formats.0", "must be md, pdf or html, not 'docx'"),
]


@pytest.mark.parametrize(("override", "key", "what"), REFUSED, ids=[override[:50] for override, _, _ in REFUSED])
def test_refusals_name_the_key_and_say_what_would_be_right(tmp_path: Path, override: str, key: str, what: str) -> None:
    with pytest.raises(StudyError) as caught:
        load_text(tmp_path, MINIMAL, override)
    text = str(caught.value)
    first = text.splitlines()[0]
    assert first.startswith("--set ") and f": {key}: " in first and what in text, text
    assert all(line.endswith("Nothing was run.") for line in text.splitlines()), text
    assert "Input should" not in text and "pydantic" not in text and "\\n" not in text.replace(override, "").replace("'a\\n'", "")


@pytest.mark.parametrize("search", ["search.order=in_turn", "search.transfer=predict"])
def test_rates_are_not_predicted_along_two_parametrizations_at_once(tmp_path: Path, search: str) -> None:
    mup = ["model.mup_base=20k", search]
    assert load_text(tmp_path, MINIMAL, "model.parametrization=mup", *mup).model.parametrization == "mup"
    with pytest.raises(StudyError, match="no single ladder to predict rates along"):
        load_text(tmp_path, MINIMAL, "model.parametrization=both", *mup)


def test_cross_checks_hold_for_studies_built_in_code_too() -> None:
    for bad in ({"source": "file"}, {"path": "x"}, {"clean": ("lower",)}):
        with pytest.raises(ValidationError):
            Data(**bad)
    with pytest.raises(ValidationError):
        LrRange(low=1, high=1)


def test_every_key_of_the_reference_is_written_down() -> None:
    """Run `make schema` and look at the difference when this fails."""
    assert (reference.DOCS / "study.md").read_text(encoding="utf-8") == reference.markdown()
    assert (reference.DOCS / "study.schema.json").read_text(encoding="utf-8") == reference.schema()
    assert (reference.DOCS / "results.md").read_text(encoding="utf-8") == reference.results_markdown()


def test_the_schema_knows_ranges_choices_and_unknown_keys() -> None:
    schema: dict[str, Any] = json.loads(reference.schema())
    train = schema["$defs"]["Train"]
    assert train["additionalProperties"] is False and schema["additionalProperties"] is False
    assert train["properties"]["batch_size"]["minimum"] == 1
    assert train["properties"]["schedule"]["enum"] == ["constant", "cosine", "linear"]
    assert all("description" in info for block in schema["$defs"].values() for info in block["properties"].values() if "$ref" not in info)


def search_of(**changes: Any) -> Search:
    return Search.model_validate(changes)


DECAY = {"low": 1e-3, "high": 1.0, "log": True}


def test_other_keys_of_train_can_be_searched() -> None:
    search = search_of(space={"train.weight_decay": DECAY, "train.schedule": {"choices": ["constant", "cosine"]}})
    assert search.space["train.weight_decay"].high == 1.0 and search.space["train.schedule"].choices == ("constant", "cosine")
    assert search_of(space=None).space == {} == search_of().space
    assert search_of(space={"train.batch_size": {"choices": [16, 32]}}, pruner="none").space["train.batch_size"].choices == (16, 32)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": {"train.lr": DECAY}}, "the range of rates is search.lr"),
        ({"space": {"weight_decay": DECAY}}, "can't be searched"),
        ({"space": {"train.epochs": {"low": 1, "high": 2}}}, "can't be searched"),
        ({"space": {"train.weight_decay": {"low": 1}}}, "give low and high, or choices"),
        ({"space": {"train.weight_decay": {"low": 1, "high": 2, "choices": [1, 2]}}}, "give low and high, or choices"),
        ({"space": {"train.weight_decay": {"choices": [1]}}}, "two different choices"),
        ({"space": {"train.weight_decay": {"low": 2, "high": 1}}}, "must be below high"),
        ({"space": {"train.weight_decay": {"low": 0, "high": 1, "log": True}}}, "must be > 0 on a log scale"),
        ({"space": {"train.warmup_fraction": {"low": 0, "high": 0.5}}}, "train.warmup_fraction: must be a number from 0 to 0.1"),
        ({"space": {"train.dropout": {"low": -1, "high": 0.5}}}, "train.dropout: must be"),
        ({"space": {"train.schedule": {"choices": ["constant", "sine"]}}}, "train.schedule: "),
        ({"space": {"train.batch_size": {"low": 8, "high": 64}}}, "train.batch_size needs choices"),
        ({"space": {"train.batch_size": {"choices": [16, 32]}}}, "needs search.pruner: none"),
        ({"space": {"train.weight_decay": DECAY}, "sampler": "grid"}, "a grid goes over rates alone"),
        ({"transfer": "predict", "transfer_from": 1}, "a law needs two rungs"),
        ({"transfer": "predict", "trials": 0}, "nothing to predict from"),
        ({"extend": 11}, "must be a whole number >= 0"),
        ({"sampler": "cmaes"}, "qmc"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_with_the_reason(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        search_of(**changes)
    assert said in str(refused.value)
