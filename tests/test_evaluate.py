"""Scores: the packed pass against a slow one text by text, sums against means, and what scoring leaves as it was."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness import evaluate as scoring
from harness.data.batches import pack
from harness.data.corpus import Encoded
from harness.evaluate import evaluate
from harness.state import build_model
from tests import tiny
from tests.packing import plainly


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Weights large enough that predictions differ from a uniform guess."""
    made = build_model(tiny.spec(dropout=0.5))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2.0)
    return made


def one_by_one(model: nn.Module, texts: Encoded, width: int | None = None) -> tuple[np.ndarray, np.ndarray, int]:
    """Nats and hits of each text, alone and in float64; `width` counts that many padded positions as well."""
    exact = build_model(tiny.spec()).double()
    exact.load_state_dict(model.state_dict())
    exact.eval()
    nats, hits, positions = [], [], 0
    for i in range(texts.n_texts):
        ids = torch.from_numpy(texts.ids[texts.offsets[i] : texts.offsets[i + 1]].astype(np.int64))
        if width is not None:
            ids = F.pad(ids, (0, width - len(ids)))
        with torch.no_grad():
            log_p = exact(ids[None, :-1])[0].log_softmax(-1)
        nats.append(float(-log_p.gather(1, ids[1:, None]).sum()))
        hits.append(int((log_p.argmax(-1) == ids[1:]).sum()))
        positions += len(ids) - 1
    return np.array(nats), np.array(hits), positions


def test_every_text_scores_as_it_does_alone(model: nn.Module) -> None:
    texts = tiny.corpus().train
    result = evaluate(model, tiny.corpus(), texts)
    nats, hits, positions = one_by_one(model, texts)
    assert texts.lengths.min() < texts.lengths.max()
    np.testing.assert_allclose(result.text_nll, nats, rtol=1e-6)
    np.testing.assert_array_equal(result.text_hits, hits)
    assert result.nll == pytest.approx(nats.mean(), rel=1e-6)
    assert result.nll_se == pytest.approx(nats.std(ddof=1) / math.sqrt(len(nats)), rel=1e-6)
    # Sums over sums: long texts weigh more than in a mean of means.
    assert result.loss == pytest.approx(nats.sum() / positions, rel=1e-6)
    assert result.loss != pytest.approx((nats / texts.lengths).mean(), rel=1e-6)
    assert result.top1 == hits.sum() / positions


def test_padding_is_scored_over_all_positions(model: nn.Module) -> None:
    data = tiny.corpus()
    result = evaluate(model, data, data.validation, padding="learn")
    nats, hits, positions = one_by_one(model, data.validation, data.seq_len)
    assert positions == data.validation.n_texts * (data.seq_len - 1)
    assert result.nll_padded == pytest.approx(nats.mean(), rel=1e-6)
    assert result.top1_padded == pytest.approx(hits.sum() / positions, abs=1e-12)
    plain = evaluate(model, data, data.validation)
    assert (plain.nll_padded, plain.top1_padded) == (None, None)
    assert (plain.nll, plain.top1) == (result.nll, result.top1)


def shuffled(texts: Encoded, order: np.ndarray) -> Encoded:
    parts = [texts.ids[texts.offsets[i] : texts.offsets[i + 1]] for i in order]
    offsets = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
    return Encoded(np.concatenate(parts), offsets, texts.characters[order], texts.unknown[order], [texts.texts[i] for i in order])


def test_neither_order_nor_batches_matter(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.corpus()
    order = np.random.default_rng(0).permutation(data.validation.n_texts)
    straight, mixed = evaluate(model, data, data.validation), evaluate(model, data, shuffled(data.validation, order))
    np.testing.assert_allclose(mixed.text_nll, straight.text_nll[order], rtol=1e-6)
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 1)
    alone = evaluate(model, data, data.validation)
    np.testing.assert_allclose(alone.text_nll, straight.text_nll, rtol=1e-6)
    assert alone.top1 == straight.top1


def test_bits_per_character_charges_the_unknown(model: nn.Module) -> None:
    data = replace(tiny.corpus(), unknown_nats=math.log(3))
    texts = replace(data.validation, unknown=np.arange(data.validation.n_texts))
    result = evaluate(model, data, texts)
    nats = result.text_nll.sum() + texts.unknown.sum() * math.log(3)
    # Neither start nor end is a character.
    assert result.bits_per_char == pytest.approx(nats / math.log(2) / sum(map(len, texts.texts)), rel=1e-12)
    assert result.bits_per_char > evaluate(model, data, data.validation).bits_per_char


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_restored_and_no_gradient_is_left(model: nn.Module, training: bool) -> None:
    model.train(training)
    first, second = (evaluate(model, tiny.corpus(), tiny.corpus().validation) for _ in range(2))
    # Half of the inputs would be dropped in training mode, differently each time.
    assert first.nll == second.nll
    assert model.training is training
    assert all(p.grad is None for p in model.parameters())


def test_one_text_has_no_standard_error() -> None:
    data = tiny.corpus()
    result = evaluate(build_model(tiny.spec()), data, data.validation.head(1))
    assert math.isnan(result.nll_se) and math.isfinite(result.nll)


def test_a_batch_that_is_only_read_scores_the_same(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding holds tokens then, not zeros."""
    plainly(monkeypatch)
    model.eval()
    batch = pack(tiny.corpus().train, np.array([5, 0, 17, 3]))
    with torch.no_grad():
        read, written = (scoring.packed_logits(model, one) for one in (scoring.read_only(batch), batch))
    torch.testing.assert_close(read, written, rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_scores_of_a_cpu_each_time(model: nn.Module) -> None:
    """The second time on the batches that it was given before."""
    data = tiny.corpus()
    here = evaluate(model, data, data.validation)
    there = copy.deepcopy(model).cuda()
    for _ in range(2):
        scores = evaluate(there, data, data.validation, device="cuda")
        np.testing.assert_allclose(scores.text_nll, here.text_nll, rtol=1e-5)
