"""A crew against the lone runs that it stands for: logits, gradients, steps, clipping, members that leave, moments."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harness.crew import Crew, release, together
from harness.data.batches import Order, pack
from harness.runspec import RunSpec
from harness.state import State, restore, snapshot, start
from harness.step import forward_backward, step_seed, update
from models import _cpu, _stacked, decoder
from models._layers import Packed
from models._stacked import NO_TARGET, StackedModel, stack
from models.decoder import FAMILIES, Model
from tests import tiny

TEXTS = tiny.corpus().train


def crew_specs(**changes: object) -> list[RunSpec]:
    rates, seeds = (1e-3, 3e-3, 1e-2, 2e-3), (0, 0, 1, 2)
    return [tiny.spec(lr=lr, seed=seed, trial=i, **changes) for i, (lr, seed) in enumerate(zip(rates, seeds, strict=True))]


def batches(specs: Sequence[RunSpec], step: int) -> list[Packed]:
    return [pack(TEXTS, Order(TEXTS.n_texts, spec.batch_size, spec.seed).rows(step - 1)) for spec in specs]


def crew_step(crew: Crew, step: int) -> tuple[list[float], list[float]]:
    out = crew.forward_backward(batches(crew.specs, step), [step_seed(spec.seed, step) for spec in crew.specs])
    crew.update([spec.lr for spec in crew.specs])
    return out


def going_on(crew: Crew, members: Sequence[int]) -> Crew:
    """The crew that these are without the others."""
    return Crew([crew.specs[k] for k in members], states=[crew.states[k] for k in members])


def lone_step(spec: RunSpec, state: State, step: int) -> tuple[float, float]:
    out = forward_backward(spec, state, TEXTS, Order(TEXTS.n_texts, spec.batch_size, spec.seed).rows(step - 1), step, "cpu")
    update(state, spec.lr)
    return out


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("generic", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_stacked_models_equal_single_ones(family: str, generic: bool, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = decoder.solve(12_000, 29, 150, **asdict(FAMILIES[family]))
    if generic:
        monkeypatch.setattr(_stacked, "plain_cpu", lambda x: False)
    torch.manual_seed(0)
    models = [Model(shape, 29, 150).double() for _ in range(3)]
    own = [pack(TEXTS, np.arange(k, k + 11)) for k in range(3)]
    batch = stack(own if grouped else [replace(one, groups=None) for one in own], multiple=64)
    assert batch.ids_KN.shape[1] % 64 == 0 and len({len(one.ids_N) for one in own}) > 1
    stacked = StackedModel(models)
    logits_KNV = stacked.forward_packed(batch)
    stacked.backward(_stacked.losses(logits_KNV, batch.targets_KN).sum())
    sizes = [weight[0].numel() for weight in stacked.weights.values()]
    for k, (model, one) in enumerate(zip(models, own, strict=True)):
        logits_NV = model.forward_packed(one)
        assert one.targets_N is not None
        assert (logits_KNV[k, : len(logits_NV)] - logits_NV).abs().max() < 1e-12
        F.cross_entropy(logits_NV.float(), one.targets_N).backward()
        for parameter, gradient in zip(model.parameters(), stacked.gradients[k].split(sizes), strict=True):
            # The loss is taken in float32, as everywhere.
            assert parameter.grad is not None and (gradient - parameter.grad.flatten()).abs().max() < 1e-6


def test_what_is_filled_up_has_no_target_and_no_neighbour() -> None:
    own = [pack(TEXTS, np.arange(4)), pack(TEXTS, np.arange(30, 34))]
    batch = stack(own, multiple=128)
    tokens = [len(one.ids_N) for one in own]
    for k, n in enumerate(tokens):
        assert (batch.targets_KN[k, n:] == NO_TARGET).all() and (batch.targets_KN[k, :n] != NO_TARGET).all()
    places = batch.groups.place_N
    assert places is not None
    real = torch.cat([places.view(2, -1)[k, :n] for k, n in enumerate(tokens)])
    assert len(set(real.tolist())) == len(real)
    assert not set(real.tolist()) & {batch.groups.n_places, 2 * batch.groups.n_places + 1}


def test_a_crew_trains_each_member_as_its_lone_twin_for_50_steps() -> None:
    specs = crew_specs(dropout=0.2)
    crew, lone = Crew(specs, token_multiple=32), [start(spec, "cpu") for spec in specs]
    for step in range(1, 51):
        ours, theirs = crew_step(crew, step), [lone_step(spec, state, step) for spec, state in zip(specs, lone, strict=True)]
        assert ours[0] == pytest.approx([loss for loss, _ in theirs], rel=1e-6)
        assert ours[1] == pytest.approx([norm for _, norm in theirs], rel=1e-4)
    assert len({round(loss, 4) for loss in ours[0]}) == len(specs)


def test_masks_are_those_of_the_lone_twin_and_depend_on_nothing_else() -> None:
    models = [Model(decoder.Shape(**tiny.SHAPE), 29, 150, dropout=0.5) for _ in range(2)]
    kept = torch.ones(2, 8, 8)
    StackedModel(models).draw(kept, [11, 12], [5, 7])
    for k, (seed, n) in enumerate(((11, 5), (12, 7))):
        torch.manual_seed(seed)
        assert torch.equal(models[k].dropout(torch.ones(n, 8)), kept[k, :n] / 0.5)
        assert (kept[k, n:] == 1).all()
    alone = torch.ones(1, 7, 8)
    StackedModel(models[1:]).draw(alone, [12], [7])
    assert torch.equal(alone[0], kept[1, :7])


def test_each_member_is_clipped_by_its_own_norm() -> None:
    specs = [tiny.spec(grad_clip=clip, trial=i) for i, clip in enumerate((None, 0.1, 1e9))]
    crew, lone = Crew(specs), [start(spec, "cpu") for spec in specs]
    crew_step(crew, 1)
    for k, (spec, state) in enumerate(zip(specs, lone, strict=True)):
        lone_step(spec, state, 1)
        flat = torch.cat([p.grad.flatten() for p in state.model.parameters() if p.grad is not None])
        assert (crew.model.gradients[k] - flat).abs().max() < 1e-6 * flat.abs().max()


def test_one_step_equals_torchs_adamw() -> None:
    specs = [
        tiny.spec(lr=lr, weight_decay=decay, beta1=b, trial=i) for i, (lr, decay, b) in enumerate(((1e-3, 0.1, 0.9), (1e-2, 0.0, 0.5)))
    ]
    crew = Crew(specs)
    torch.manual_seed(1)
    for step in range(3):
        before = crew.model.rows.detach().clone()
        crew.model.gradients.normal_()
        if step == 0:
            plain = [torch.nn.Parameter(row.clone()) for row in before]
            theirs = [
                torch.optim.AdamW([p], lr=s.lr, betas=(s.beta1, s.beta2), eps=s.eps, weight_decay=s.weight_decay, foreach=False)
                for p, s in zip(plain, specs, strict=True)
            ]
        for parameter, gradient, optimizer in zip(plain, crew.model.gradients, theirs, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
        crew.update([spec.lr for spec in specs])
        for row, parameter in zip(crew.model.rows, plain, strict=True):
            assert (row - parameter).abs().max() < 1e-6
    assert not torch.equal(before, crew.model.rows)


def test_members_leave_without_touching_the_others() -> None:
    specs = crew_specs()
    whole, smaller = Crew(specs), Crew(specs)
    for step in range(1, 4):
        crew_step(whole, step)
        crew_step(smaller, step)
    smaller = going_on(smaller, [3, 1])
    for step in range(4, 10):
        all_losses, ours = crew_step(whole, step)[0], crew_step(smaller, step)[0]
        assert ours == pytest.approx([all_losses[3], all_losses[1]], rel=1e-6)


@pytest.mark.parametrize("others", [[0, 1, 3], [1], []])
def test_a_members_state_is_that_of_its_lone_twin_in_the_crew_and_out_of_it(others: list[int]) -> None:
    specs = crew_specs()
    crew, twin = Crew(specs), start(specs[2], "cpu")
    state = crew.states[2]
    for step in range(1, 4):
        crew_step(crew, step)
        lone_step(specs[2], twin, step)
    if others:
        # What the others do from here on is not this run's business.
        crew = going_on(crew, [2, *others])
        crew_step(going_on(crew, [1]), 4)
    # Not the weights themselves: a key's bias has no influence, so that its gradient is rounding, which AdamW makes as large as any other.
    ids_BT = torch.randint(0, 29, (4, 50))
    assert (state.model.eval()(ids_BT) - twin.model.eval()(ids_BT)).abs().max() < 1e-5
    ours, theirs = state.optimizer.state_dict()["state"], twin.optimizer.state_dict()["state"]
    assert set(ours) == set(theirs)
    for index, moments in ours.items():
        assert moments["step"] == theirs[index]["step"]
        assert all((moments[name] - theirs[index][name]).abs().max() < 1e-6 for name in ("exp_avg", "exp_avg_sq"))


def test_a_released_member_goes_on_by_itself() -> None:
    specs = crew_specs()
    crew, twin = Crew(specs), start(specs[1], "cpu")
    for step in range(1, 6):
        crew_step(crew, step)
        lone_step(specs[1], twin, step)
    release(crew.states[1])
    rows = crew.model.rows.clone()
    for step in range(6, 12):
        ours, theirs = lone_step(specs[1], crew.states[1], step), lone_step(specs[1], twin, step)
        assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert torch.equal(rows, crew.model.rows)


def test_a_crew_of_restored_runs_has_the_bits_of_the_one_that_was_saved() -> None:
    """Saved with four members and gone on with three of them, as when one had ended; the same as a crew that one has left."""
    specs = crew_specs()
    whole = Crew(specs)
    for step in range(1, 5):
        crew_step(whole, step)
    saved = [replace(snapshot(state), step=4) for state in whole.states]
    whole = going_on(whole, [0, 2, 3])
    again = Crew(whole.specs, states=[restore(specs[k], "cpu", saved[k]) for k in (0, 2, 3)])
    for step in range(5, 9):
        assert crew_step(whole, step) == crew_step(again, step)
    assert torch.equal(whole.model.rows, again.model.rows)


def test_who_can_be_together() -> None:
    one = tiny.spec()
    assert together([one, replace(one, lr=1.0, seed=4, weight_decay=0.2)])
    assert not together([one, replace(one, batch_size=8)])
    assert not together([one, replace(one, train_texts=50)])
    assert not together([replace(one, padding="learn")] * 2)
    assert _cpu.plain_cpu(torch.zeros(1))
