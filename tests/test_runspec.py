"""The identity of a run: changed by all that decides its result, and by nothing else."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from harness.runspec import SCIENCE_VERSION, RunSpec, digest, short_rate

SHAPE = {"n_layer": 5, "d_model": 20, "n_head": 5, "d_head": 20, "d_ff": 200, "norm": "post", "bias": True}
SPEC = RunSpec(
    stage="ladder",
    rung="87k",
    family="assignment",
    arch="decoder",
    shape=SHAPE,
    vocab_size=29,
    seq_len=150,
    data="0123456789abcdef",
    train_texts=25_600,
    eval_texts=512,
    steps=800,
    evaluate_at=(400, 800),
    patience=10,
    batch_size=32,
    lr=1.2345e-3,
    schedule="constant",
    warmup_steps=0,
    lr_min_fraction=0.0,
    weight_decay=0.01,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    dropout=0.1,
    grad_clip=None,
    padding="ignore",
    precision="float32",
    seed=0,
)
LABELS = {"stage", "rung", "family", "lr_source", "lr_status"}
IDENTITY = [f.name for f in fields(RunSpec) if f.name not in LABELS]


def other(value: Any) -> Any:
    """Another value of the same kind, as near as can be."""
    if value is None:
        return 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value[:-1], value[-1] + 1)
    if isinstance(value, dict):
        return value | {"d_ff": value["d_ff"] + 1}
    return value + 1 if isinstance(value, int) else value * (1 + 1e-15) + 1e-300


@pytest.mark.parametrize("name", IDENTITY)
def test_everything_that_decides_a_result_changes_the_key(name: str) -> None:
    changed = replace(SPEC, **{name: other(getattr(SPEC, name))})
    assert changed != SPEC and changed.key != SPEC.key


@pytest.mark.parametrize("name", sorted(LABELS))
def test_labels_do_not_change_the_key(name: str) -> None:
    changed = replace(SPEC, **{name: "something else"})
    assert changed != SPEC and changed.key == SPEC.key


def test_the_key_is_that_of_the_values_not_of_their_order() -> None:
    assert replace(SPEC, shape=dict(reversed(SHAPE.items()))).key == SPEC.key
    plain = dict(reversed(SPEC.to_dict().items()))
    assert RunSpec.from_dict(plain).key == SPEC.key
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, stage="search", trial=3, search="ab", patience=None, grad_clip=1.0, lr=1 / 3)])
def test_a_run_survives_being_written_and_read(spec: RunSpec) -> None:
    assert RunSpec.from_dict(spec.to_dict()) == spec
    back = RunSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert back == spec and back.key == spec.key
    assert RunSpec.from_dict(spec.to_dict() | {"a_later_field": 1}) == spec


def test_the_key_of_a_known_run_stays() -> None:
    """Fails when keys change: then old records no longer count as done. Raise SCIENCE_VERSION if results changed, and pin the new key."""
    assert (SCIENCE_VERSION, SPEC.key) == (1, "a7bd5fbadd7ab46b")


@pytest.mark.parametrize(
    ("lr", "text"),
    [(1e-3, "1e-3"), (1.2e-3, "1.2e-3"), (1.24e-5, "1.2e-5"), (3e-2, "3e-2"), (9.99e-4, "1e-3"), (1.0, "1e0"), (12.0, "1.2e1")],
)
def test_rates_for_people(lr: float, text: str) -> None:
    assert short_rate(lr) == text


def test_names_tell_the_runs_of_a_rung_apart_and_are_safe_as_file_names() -> None:
    specs = [
        SPEC,
        replace(SPEC, seed=1),
        replace(SPEC, lr=1e-3),
        replace(SPEC, stage="budget", steps=400),
        replace(SPEC, stage="budget", steps=200),
        replace(SPEC, stage="ablation", train_texts=1000),
        replace(SPEC, stage="search", trial=8, search="ab"),
        replace(SPEC, stage="search", trial=9, search="ab"),
    ]
    names = [spec.name for spec in specs]
    assert len(set(names)) == len(names)
    assert names[0] == "87k-all-s0-lr1.2e-3" and names[-2] == "87k-search-t08-lr1.2e-3"
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.") for name in names)
