"""Rungs as shapes: the assignment's own, solved targets and explicit ones, and how a wrong one is refused."""

import re
from typing import Any

import pytest

from harness import accounting, ladder
from harness.errors import StudyError
from harness.spec import ModelSpec


def resolve(*rungs: Any, family: Any = "assignment", arch: str = "decoder", vocab_size: int = 29) -> list[ladder.Rung]:
    return ladder.resolve(ModelSpec.model_validate({"arch": arch, "family": family, "rungs": list(rungs)}), vocab_size, 150)


def test_the_assignments_rungs_have_its_counts() -> None:
    rungs = resolve("87k-assignment", "557k-assignment", "5M-assignment", "10M-assignment")
    assert [rung.n_params for rung in rungs] == [87_289, 556_919, 5_097_821, 10_122_749]
    assert [(r.shape["n_layer"], r.shape["d_model"], r.shape["n_head"], r.shape["d_ff"]) for r in rungs] == [
        (5, 20, 5, 200),
        (5, 30, 5, 1500),
        (6, 48, 6, 8160),
        (6, 60, 6, 13200),
    ]
    assert all(rung.target is None and rung.family == "assignment" for rung in rungs)


@pytest.mark.parametrize("family", ["assignment", "modern"])
@pytest.mark.parametrize(("target", "count"), [("20k", 20_000), ("230k", 230_000), ("2M", 2_000_000), ("557000", 557_000)])
def test_a_target_is_met_within_two_percent_and_both_are_kept(family: str, target: str, count: int) -> None:
    (rung,) = resolve(target, family=family)
    assert rung.name == target and rung.target == count and rung.family == family
    assert abs(rung.n_params / count - 1) <= 0.02
    assert sum(rung.counts.groups.values()) == rung.n_params == accounting.counts("decoder", rung.shape, 29, 150).n_params


def test_a_rung_keeps_its_shape_with_another_vocabulary_and_counts_what_it_has() -> None:
    (few,), (many,) = resolve("87k-assignment"), resolve("87k-assignment", vocab_size=60)
    assert few.shape == many.shape
    assert many.n_params == few.n_params + 31 * (20 + 21)


def test_an_explicit_shape_follows_the_familys_rule_for_what_is_left_out() -> None:
    sizes = {"n_layer": 2, "d_model": 24, "n_head": 3, "d_ff": 64}
    (wide,) = resolve({"name": "mine", **sizes})
    (split,) = resolve({"name": "mine", **sizes}, family="modern")
    (own,) = resolve({"name": "mine", **sizes, "d_head": 10})
    assert (wide.shape["d_head"], split.shape["d_head"], own.shape["d_head"]) == (24, 8, 10)
    assert wide.name == "mine" and wide.target is None and wide.shape["norm"] == "post" and split.shape["norm"] == "pre"


def test_choices_equal_to_a_family_have_its_name_and_others_say_what_differs() -> None:
    (named,) = resolve("87k-assignment", family={"norm": "post"})
    assert named.family == "assignment" and named.n_params == 87_289
    (own,) = resolve("87k", family={"norm": "pre", "bias": False})
    assert own.family == "own(bias=False,norm=pre)" and own.shape["norm"] == "pre" and own.shape["bias"] is False


@pytest.mark.parametrize(
    ("rungs", "family", "sentence"),
    [
        (["87k-asignment"], "assignment", "model.rungs: 87k-asignment: neither .* Did you mean 87k-assignment? Named: 87k-assignment, "),
        (["87k-assignment"], "modern", "model.rungs: 87k-assignment: this shape belongs to the family assignment, .* a target such as 87k"),
        (["20k"], "modrn", "model.family: decoder has no family 'modrn'. Did you mean modern? There are: assignment, modern."),
        (["20k"], {"nrom": "pre"}, "model.family: .*nrom"),
        (["20k"], {"norm": "sideways"}, "model.family: norm: 'sideways' is not one of post, pre"),
        (["20"], "assignment", "model.rungs: 20: no decoder .* within 2 %"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(rungs: list[Any], family: Any, sentence: str) -> None:
    with pytest.raises(StudyError, match=sentence.replace("?", r"\?")):
        resolve(*rungs, family=family)


def test_one_shape_under_two_names_is_refused() -> None:
    """Their runs would have the same keys, and two lanes would train them at once."""
    twin = {"name": "twin", "n_layer": 5, "d_model": 20, "n_head": 5, "d_ff": 200}
    with pytest.raises(StudyError, match=re.escape("model.rungs: twin and 87k-assignment are the same shape")):
        resolve("87k-assignment", "230k", twin)
