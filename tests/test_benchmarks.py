"""The baseline of the benchmarks is what it claims to be: the same loss from the same weights, and the procedure it stands for."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import _harness_side
from benchmarks import _measure as measure
from benchmarks._harness_side import Steps, end_like_the_corpus
from benchmarks._notebook_model import Notebook, Transformer, decoder_weights
from benchmarks._setup import RUNGS, sequences, text_column
from harness.data.batches import padded
from harness.generate import sample
from models.decoder import Model, Shape
from tests import tiny
from tests.steppers import as_on_a_gpu

SMALL = Shape(2, 8, 2, 8, 16)


def same_weights(shape: Shape, dtype: torch.dtype = torch.float32) -> tuple[Transformer, Model]:
    torch.manual_seed(3)
    notebook = Transformer(shape, 29, 150, dropout=0.0)
    model = Model(shape, 29, 150)
    model.load_state_dict(decoder_weights(notebook))
    return notebook.to(dtype), model.to(dtype)


@pytest.mark.parametrize("rung", ["87k", "557k"])
def test_equal_weights_give_an_equal_loss_with_padding_counted(rung: str) -> None:
    notebook, model = same_weights(RUNGS[rung])
    texts = tiny.corpus().train
    ids_BT, targets_BT = padded(texts, np.arange(8), 150)
    whole = torch.from_numpy(sequences(texts, 150)[:8])
    assert torch.equal(whole[:, :-1], ids_BT) and torch.equal(whole[:, 1:], targets_BT)
    side = Notebook(RUNGS[rung], 29, whole.numpy(), 28)
    side.model = notebook
    a_text = F.cross_entropy(model(ids_BT).flatten(0, 1), targets_BT.flatten()) * 149
    assert side.nll(whole).item() == pytest.approx(a_text.item(), rel=1e-6)


def test_equal_weights_give_equal_gradients() -> None:
    notebook, model = same_weights(SMALL, torch.float64)
    ids_BT, targets_BT = padded(tiny.corpus().train, np.arange(5), 150)
    log_p = notebook(ids_BT)
    F.nll_loss(log_p.flatten(0, 1), targets_BT.flatten()).backward()
    F.cross_entropy(model(ids_BT).flatten(0, 1), targets_BT.flatten()).backward()
    for own, theirs in ((model.embedding, notebook.tokens), (model.positions, notebook.positions), (model.head, notebook.output)):
        assert own is not None and own.weight.grad is not None and theirs.weight.grad is not None
        assert (own.weight.grad - theirs.weight.grad).abs().max() < 1e-12


def test_the_notebook_learns_scores_and_samples() -> None:
    torch.manual_seed(0)
    data = tiny.corpus()
    notebook = Notebook(SMALL, 29, sequences(data.train, 150), data.tokenizer.start)
    validation = sequences(data.validation, 150)
    before = notebook.evaluate(validation)[0]
    for _ in range(8):
        notebook.step()
    after, top1 = notebook.evaluate(validation)
    assert after < before and 0 <= top1 <= 1
    texts = notebook.sample(3, 150, list(range(149)))
    assert texts.shape == (3, 149) and (texts[:, 0] == data.tokenizer.start).all() and len(np.unique(texts)) > 5


@pytest.mark.parametrize("ahead", [False, True])
def test_the_harness_makes_the_same_steps_of_a_run_by_itself_and_in_a_crew(ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step at a time on a CPU; as on a GPU, in blocks, of which the first warms up."""
    if ahead:
        as_on_a_gpu(monkeypatch, 50)
        monkeypatch.setattr(_harness_side, "BLOCK", 3)
    monkeypatch.setitem(RUNGS, "87k", SMALL)
    alone, crew = (Steps("87k", tiny.corpus(), size) for size in (1, 2))
    for side in (alone, crew):
        while side.runs[0].state.step < 6:
            assert side.seconds()[0] > 0
        assert {run.state.step for run in side.runs} == {6} and side.block == (3 if ahead else 1) and side.capturing_s == 0.0
    ids_BT = torch.randint(0, 29, (4, 50))
    one, same, other = (run.state.model.eval()(ids_BT) for run in (*alone.runs, *crew.runs))
    assert (one - same).abs().max() < 1e-5 < (one - other).abs().max()


def test_texts_end_as_often_as_the_corpus_does() -> None:
    data = tiny.corpus()
    model = Model(SMALL, 29, 150)
    end_like_the_corpus(model, data)
    drawn = sample(model, 400, [1.0], seed=0, tokenizer=data.tokenizer, seq_len=150)[1.0]
    # A geometric length cut at 149 is a little shorter on average; 400 texts leave a standard error of 5 %.
    assert np.mean([len(text) + 1 for text in drawn]) == pytest.approx(data.train.lengths.mean(), rel=0.2)


def test_pairs_are_taken_in_turns_and_compared_pair_by_pair() -> None:
    seen: list[str] = []
    clock = iter([(4.0, 4.0), (2.0, 2.0), (1.0, 1.0), (9.0, 9.0), (10.0, 5.0), (2.0, 1.0)])

    def side(name: str) -> tuple[float, float]:
        seen.append(name)
        return next(clock)

    times = measure.in_turns({"slow": lambda: side("slow"), "fast": lambda: side("fast")}, 3)
    assert seen == ["slow", "fast", "fast", "slow", "slow", "fast"]
    assert measure.compare(times, "slow", "fast") | {"quartiles": 0} == {"ratio": 5.0, "quartiles": 0, "ratio_cpu_time": 5.0, "pairs": 3}


def test_a_side_has_its_own_process_and_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    plain, tuned = measure.Remote(dict, [("x", 1)]), measure.Remote(Environment, allocator=True)
    assert plain("get", "x") == 1
    assert tuned("get", "MALLOC_MMAP_THRESHOLD_") == "1073741824" and tuned("get", "OMP_NUM_THREADS") == "1"
    with pytest.raises(RuntimeError, match="nothing"):
        plain("nothing")
    plain.close()
    tuned.close()


class Environment:
    """What a process was started with."""

    def get(self, name: str) -> str | None:
        return os.environ.get(name)


def test_the_column_with_the_longest_cells_is_the_text(tmp_path: Path) -> None:
    table = tmp_path / "some.csv"
    table.write_text("id,text,label\n1,a long line of text,news\n2,and another one,olds\n", encoding="utf-8")
    assert text_column(table) == "text" and text_column(tmp_path / "lines.txt") is None
