"""A corpus and runs that train in a blink, for tests of the engine."""

from dataclasses import replace
from functools import cache
from typing import Any

from harness.context import Context, StopRun
from harness.data.corpus import Corpus, prepare
from harness.runspec import RunSpec
from harness.spec import Data
from harness.train import Outcome, train

STEPS = 12
SHAPE = {"n_layer": 2, "d_model": 8, "n_head": 2, "d_head": 8, "d_ff": 16}
Events = list[tuple[str, dict[str, Any]]]


@cache
def corpus(texts: int = 200) -> Corpus:
    """Texts of the embedded source, split."""
    return prepare(Data(texts=texts, eval_texts=None))


def spec(**changes: Any) -> RunSpec:
    """Two small layers for twelve steps, evaluated three times."""
    data = corpus()
    plain = RunSpec(
        stage="ladder",
        rung="tiny",
        family="assignment",
        arch="decoder",
        shape=SHAPE,
        vocab_size=data.tokenizer.vocab_size,
        seq_len=data.seq_len,
        data=data.fingerprint,
        train_texts=data.train.n_texts,
        eval_texts=data.validation.n_texts,
        steps=STEPS,
        evaluate_at=(4, 8, 12),
        patience=None,
        batch_size=16,
        lr=1e-2,
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
    return replace(plain, **changes)


def run(one: RunSpec, **context: Any) -> tuple[Outcome, Events]:
    """Train, and what it told on the way."""
    events: Events = []
    given = {"corpus": corpus()} | context
    return train(one, Context(emit=lambda kind, fields: events.append((kind, fields)), **given)), events


def stopping_after(step: int) -> dict[str, Any]:
    """The part of a context that stops a run after a step."""
    seen: list[int] = []

    def pulse() -> None:
        if seen and seen[-1] >= step:
            raise StopRun

    return {"progress": lambda at, tokens, speed: seen.append(at), "pulse": pulse}


def losses(events: Events) -> list[float]:
    """The train loss at every step."""
    return [loss for kind, fields in events if kind == "points" for loss in fields["train_loss"]]


def evaluations(events: Events) -> list[dict[str, Any]]:
    """The fields of every evaluation."""
    return [fields for kind, fields in events if kind == "evaluation"]
