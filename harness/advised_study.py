"""An advice as a study file that can be run: the one size, its tokens and its rate, all else as in the study that it is made of."""

import math
from typing import Any

from harness import study_file
from harness.advise import Advice
from harness.errors import StudyError
from harness.results import Results
from harness.runspec import short_rate
from harness.spec import Study

NAME_LENGTH = 64
SUFFIX = "-advised"


def advised_study(results: Results, advice: Advice) -> Study:
    """The study to run next: one size, one seed, no search.

    Raises:
        StudyError: there is no advice to follow.
    """
    if advice.training is None or advice.rate is None:
        raise StudyError(f"there is nothing to write: {advice.reason}")
    plain, run, best = dict(results.study), advice.training, advice.estimates[0]
    interval = f" (95 % interval {best.loss_low:.4g} to {best.loss_high:.4g})" if math.isfinite(best.loss_low) else ""
    given = f"{advice.budget.amount:.3g} {advice.budget.unit}"
    plain |= {
        "study": str(plain["study"])[: NAME_LENGTH - len(SUFFIX)] + SUFFIX,
        "question": f"Does the loss come out as the surface of {plain['study']} predicts for {given}?",
        "hypothesis": f"Test loss {best.loss:.4g} nats a token{interval} with {run.rung} parameters on {run.train_tokens:.3g} tokens.",
        "model": plain["model"] | {"rungs": [run.rung]},
        # Rounded up, so that the whole steps that were priced come out again.
        "train": plain["train"] | {"tokens": math.ceil(run.train_tokens), "epochs": None, "max_steps": None},
        "search": {"trials": 0, "default_lr": advice.rate.lr},
        "seeds": 1,
        "budgets": {},
        "ablations": {},
        "within": {results.plan["device"]: f"{math.floor(advice.budget.amount)}s"} if advice.budget.unit == "seconds" else None,
    }
    return Study.model_validate(plain)


def text(study: Study, advice: Advice) -> str:
    """The study as a file, keys at their defaults left out, with what speaks against it as comments."""
    plain: dict[str, Any] = study.model_dump(mode="json", exclude_defaults=True)
    rate = advice.rate
    assert rate is not None
    said = [f"Rate {short_rate(rate.lr)}: {rate.source}.", *(f"Note: {warning}." for warning in advice.warnings)]
    said.append("One seed; with seeds: 3 the result has an interval of its own, at three times the cost.")
    return "".join(f"# {' '.join(line.split())}\n" for line in said) + study_file.write(plain)
