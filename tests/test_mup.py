"""muP: the standard model at its base, Table 8 elsewhere, alike on every path, in crews and after a restart; level over widths."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.coordinates import Sizes, check
from harness.crew import Crew
from harness.errors import StudyError
from harness.ladder import Rung, resolve
from harness.results import from_record
from harness.runspec import RunSpec
from harness.spec import ModelSpec, Shape
from harness.state import restore, snapshot, start
from harness.step import update
from models import decoder
from models._mup import Base, by_rate
from models.decoder import FAMILIES, Model
from tests import inline, tiny
from tests.packing import packed
from tests.test_crew import crew_step, lone_step

BASE = {"n_layer": 2, "d_model": 8, "n_head": 2, "d_head": 4, "d_ff": 16}
WIDE = BASE | {"d_model": 32, "n_head": 4, "d_head": 8, "d_ff": 128}
WIDTHS = {"d_model": 8, "n_head": 2, "d_head": 4, "d_ff": 16}
# How many times as long the sums of the wide one are.
TIMES = {"attention.qkv": 4.0, "attention.out": 4.0, "mlp.up": 4.0, "mlp.down": 8.0}
CHOICES = [{}, {"tied": True}, asdict(FAMILIES["modern"]), asdict(FAMILIES["modern"]) | {"tied": True, "bias": True}]


def shape(sizes: dict[str, int], family: dict[str, Any]) -> decoder.Shape:
    return decoder.Shape(**sizes, **{k: v for k, v in family.items() if k not in ("d_head", "d_ff")})


def model(sizes: dict[str, int], family: dict[str, Any], base: Base | None) -> Model:
    torch.manual_seed(0)
    return Model(shape(sizes, family), 29, 24, base=base)


def spec(**changes: Any) -> RunSpec:
    return tiny.spec(shape=WIDE, mup_base=WIDTHS, **changes)


def hidden(name: str) -> float | None:
    return next((times for part, times in TIMES.items() if name.endswith(f"{part}.weight")), None)


@pytest.mark.parametrize("family", CHOICES)
def test_at_its_base_it_is_the_standard_model_to_the_last_bit(family: dict[str, Any]) -> None:
    ids_BT = torch.randint(0, 29, (2, 9))
    standard, mup = model(BASE, family, None), model(BASE, family, Base(**WIDTHS))
    assert torch.equal(standard(ids_BT), mup(ids_BT))
    assert [factor for factor, _ in by_rate(mup)] == [1.0]
    assert not torch.equal(model(WIDE, family, None)(ids_BT), model(WIDE, family, Base(**WIDTHS))(ids_BT))


@pytest.mark.parametrize("family", CHOICES)
def test_rates_are_those_of_table_8(family: dict[str, Any]) -> None:
    rates = {name: factor for factor, group in by_rate(model(WIDE, family, Base(**WIDTHS))) for name in group}
    assert rates == {name: 1 / (hidden(name) or 1.0) for name in rates} and set(rates.values()) == {1.0, 1 / 4, 1 / 8}
    assert rates["embedding.weight"] == rates.get("head.weight", 1.0) == 1.0


@pytest.mark.parametrize("family", CHOICES)
def test_first_values_have_the_variances_of_table_8(family: dict[str, Any]) -> None:
    # Enough values for their spread to be told from half and from twice as much.
    sizes = [{name: 6 * n if name != "n_layer" else n for name, n in one.items()} for one in (BASE, WIDE)]
    base = Base(**{name: sizes[0][name] for name in WIDTHS})
    narrow, wide = ({name: p.detach() for name, p in model(one, family, base).named_parameters()} for one in sizes)
    for name, p in wide.items():
        if p.std() == 0:
            assert set(p.tolist()) == set(narrow[name].tolist()), name
        else:
            expected = narrow[name].std() / math.sqrt(hidden(name) or 1.0)
            assert float(p.std() / expected) == pytest.approx(1.0, abs=0.3), name


def test_scores_have_one_over_d_and_logits_one_over_width() -> None:
    wide, standard = model(WIDE, {}, Base(**WIDTHS)), model(WIDE, {}, None)
    assert wide.blocks[0].attention.scale == pytest.approx(math.sqrt(4) / 8) and standard.blocks[0].attention.scale is None
    x_NC = torch.randn(5, 32)
    assert torch.allclose(wide._logits(x_NC), x_NC @ wide.head.weight.T / 4 + wide.head.bias, atol=1e-6)


@pytest.mark.parametrize("family", CHOICES)
def test_every_path_scales_alike(family: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    wide = model(WIDE, family, Base(**WIDTHS)).double()
    for p in wide.parameters():
        p.data += 0.2 * torch.randn_like(p)
    ids_BT = torch.randint(0, 29, (3, 12))
    whole, cache = wide(ids_BT), wide.init_cache(3, 12)
    with torch.no_grad():
        for t in range(12):
            assert (wide.step(ids_BT[:, t], cache) - whole[:, t]).abs().max() < 1e-10
    by_hand = torch.autograd.grad(whole.square().sum(), list(wide.parameters()))
    monkeypatch.setattr(decoder, "groups_of", lambda x, batch: None)
    plain = wide.forward_packed(packed(ids_BT, [12, 12, 12]))
    by_torch = torch.autograd.grad(plain.square().sum(), list(wide.parameters()))
    for one, other in zip(by_hand, by_torch, strict=True):
        assert (one - other).abs().max() <= 1e-10 * max(1.0, float(other.abs().max()))


def test_first_steps_move_each_group_by_its_rate_and_decay_all_alike() -> None:
    for gradient, decay in ((1.0, 0.0), (0.0, 0.5)):
        state = start(spec(weight_decay=decay, dropout=0.0), "cpu")
        before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
        for p in state.model.parameters():
            p.grad = torch.full_like(p, gradient)
        update(state, 1e-2)
        for name, p in state.model.named_parameters():
            moved = before[name] - p
            if gradient:
                assert torch.allclose(moved, torch.full_like(p, 1e-2 / (hidden(name) or 1.0)), rtol=1e-3, atol=1e-7), name
            else:
                assert torch.allclose(moved, 1e-2 * decay * before[name], rtol=1e-4, atol=1e-8), name


def test_the_standard_parametrization_has_one_group_and_one_rate() -> None:
    state = start(tiny.spec(), "cpu")
    (group,) = state.optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in state.model.parameters()]
    assert (group["factor"], group["lr"], group["weight_decay"]) == (1.0, 1e-2, 0.01)


def test_a_run_goes_on_from_a_checkpoint_bit_by_bit() -> None:
    one, whole = spec(), start(spec(), "cpu")
    for step in range(1, 4):
        lone_step(one, whole, step)
    again = restore(one, "cpu", snapshot(whole))
    for step in range(4, 7):
        assert lone_step(one, whole, step) == lone_step(one, again, step)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


def test_a_crew_trains_each_member_as_its_lone_twin() -> None:
    specs = [spec(lr=lr, seed=seed, trial=i, dropout=0.2) for i, (lr, seed) in enumerate(((1e-3, 0), (1e-2, 0), (3e-3, 1)))]
    members, lone = ([start(one, "cpu") for one in specs] for _ in range(2))
    crew = Crew(specs, token_multiple=32, states=members)
    for step in range(1, 9):
        ours, theirs = crew_step(crew, step), [lone_step(one, state, step) for one, state in zip(specs, lone, strict=True)]
        assert ours[0] == pytest.approx([loss for loss, _ in theirs], rel=1e-6)
    saved, moments = (state.optimizer.state_dict()["state"] for state in (lone[1], members[1]))
    assert saved.keys() == moments.keys()
    for index, own in moments.items():
        assert own["exp_avg"].shape == saved[index]["exp_avg"].shape and own["step"] == saved[index]["step"]
        assert (own["exp_avg"] - saved[index]["exp_avg"]).abs().max() < 1e-5
    crew = Crew([specs[2], specs[0]], token_multiple=32, states=[members[2], members[0]])
    for step in range(9, 12):
        ours, theirs = crew_step(crew, step), [lone_step(specs[k], lone[k], step) for k in (2, 0)]
        assert ours[0] == pytest.approx([loss for loss, _ in theirs], rel=1e-6)


def test_a_whole_run_under_mup_ends_and_is_another_run_than_the_standard_one() -> None:
    one = spec()
    outcome, events = tiny.run(one)
    standard, others = tiny.run(replace(one, mup_base=None))
    assert outcome.status == standard.status == "completed"
    assert tiny.losses(events) != tiny.losses(others) and one.key != replace(one, mup_base=None).key
    assert one.key != replace(one, mup_base=WIDTHS | {"d_model": 16}).key
    assert RunSpec.from_dict(one.to_dict()) == one


def ladder(**changes: Any) -> list[Rung]:
    rungs = ("20k", Shape(name="wide", n_layer=2, d_model=16, n_head=2, d_ff=64))
    return resolve(ModelSpec(rungs=rungs, **changes), 29, 150)


def test_a_ladder_in_both_parametrizations_has_every_rung_twice() -> None:
    plain = ladder()
    both = ladder(parametrization="both", mup_base="20k")
    assert [rung.name for rung in both] == ["20k", "20k-mup", "wide", "wide-mup"]
    assert both[::2] == plain and [rung.shape for rung in both[1::2]] == [rung.shape for rung in plain]
    assert all(rung.mup_base == {"d_model": 10, "n_head": 5, "d_head": 10, "d_ff": plain[0].shape["d_ff"]} for rung in both[1::2])
    assert {rung.family for rung in both} == {"assignment", "assignment-mup"}
    alone = ladder(parametrization="mup", mup_base=Shape(name="base", n_layer=2, d_model=8, n_head=2, d_ff=32))
    assert [(rung.name, rung.mup_base) for rung in alone][1] == ("wide", {"d_model": 8, "n_head": 2, "d_head": 8, "d_ff": 32})


def test_a_name_that_a_twin_takes_is_refused() -> None:
    rungs = [Shape(name=name, n_layer=1, d_model=width, n_head=1, d_ff=8) for name, width in (("a", 4), ("a-mup", 8))]
    with pytest.raises(StudyError, match="a-mup is also the name of a in muP"):
        resolve(ModelSpec(rungs=rungs, parametrization="both", mup_base="20k"), 29, 150)
    with pytest.raises(StudyError, match=r"model.mup_base: 50: no decoder"):
        resolve(ModelSpec(rungs=("20k",), parametrization="mup", mup_base="50"), 29, 150)


def test_a_study_of_both_trains_every_rung_twice_and_the_base_alike(tmp_path: Path) -> None:
    tiny_rung = inline.STUDY["model"]["rungs"][0]
    model = {"rungs": [tiny_rung, tiny_rung | {"name": "wide", "d_model": 8, "d_ff": 16}], "parametrization": "both", "mup_base": tiny_rung}
    study = inline.prepared(model=model, search={"trials": 2})
    record = inline.run(study, tmp_path)
    runs = from_record(record).runs
    assert set(zip(runs["rung"], runs["parametrization"], strict=True)) == {
        ("tiny", "standard"), ("tiny-mup", "mup"), ("wide", "standard"), ("wide-mup", "mup"),
    }  # fmt: skip
    at_default = runs[(runs["stage"] == "search") & (runs["trial"] == 0)].set_index("rung")["val_loss"]
    # At the base both are the same model, elsewhere they are not.
    assert at_default["tiny"] == at_default["tiny-mup"] and at_default["wide"] != at_default["wide-mup"]
    assert runs["key"].is_unique and set(from_record(record).searches["parametrization"]) == {"standard", "mup"}
    said: list[str] = []
    inline.run(study, tmp_path, inline.Watch(on_event=lambda event: said.append(event["event"])))
    assert not said


BASE_RUNG = Rung("base", "assignment", "decoder", {"n_layer": 2, "d_model": 16, "n_head": 2, "d_head": 16, "d_ff": 32}, counts=None)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["assignment", "modern"])
def sizes(request: pytest.FixtureRequest) -> dict[tuple[str, str], Sizes]:
    rest = {k: v for k, v in asdict(FAMILIES[request.param]).items() if k not in ("d_head", "d_ff")}
    rung = replace(BASE_RUNG, shape={**BASE_RUNG.shape, **rest})
    found = check(tiny.spec(), rung, tiny.corpus(), 3e-3, multiples=(1, 2, 4, 8), steps=6, seeds=2)
    return {(one.parametrization, one.place): one for one in found}


def test_sizes_stay_level_over_widths_under_mup(sizes: dict[tuple[str, str], Sizes]) -> None:
    for place in ("embedding", "attention", "MLP", "logits"):
        assert abs(sizes["mup", place].growth) < 0.3, place
        assert abs(sizes["mup", place].change_growth) < 0.3, place
    # Queries and keys begin without any correlation, so that 1/d makes their products shrink as width^(-1/2) until they have learned one.
    assert -0.6 < sizes["mup", "scores"].change_growth < 0.3


def test_the_standard_parametrization_does_not_pass_the_same_check(sizes: dict[tuple[str, str], Sizes]) -> None:
    assert sizes["standard", "logits"].change_growth > 0.5 and sizes["standard", "scores"].change_growth > 0.5
    assert sizes["standard", "embedding"].change_growth < 0.3
    assert sizes["standard", "logits"].widths == (16, 32, 64, 128)
