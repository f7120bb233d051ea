"""The embedded newswire: headlines drawn from a distribution that this code knows, so that its best possible score is known too.

Text i is the same for any number of texts. `REVISION` names the distribution and its texts: whatever changes one of them changes it.
"""

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from harness.data import Floor, Texts
from harness.data.clean import LETTERS
from harness.data.sources._wire_build import SEED, wire_grammar
from harness.data.sources._wire_floor import Predictor
from harness.data.sources._wire_grammar import Automaton, compile_grammar, sentences

REVISION = "wire-1"
DEFAULT_TEXTS = 32_000
# Texts are drawn a block at a time, each block from a stream of its own.
BLOCK = 1_000


class Options(Protocol):
    """What this source reads of a study's data section."""

    @property
    def texts(self) -> int | None:
        """How many texts; None: `DEFAULT_TEXTS`."""


@functools.cache
def automaton() -> Automaton:
    """The newswire's distribution."""
    return compile_grammar(wire_grammar())


@functools.cache
def predictor() -> Predictor:
    """The newswire's best possible model."""
    return Predictor(automaton())


def block(index: int) -> list[str]:
    """The texts from `index * BLOCK` on, `BLOCK` of them."""
    width = 1 + len(automaton().slot_LP)
    # Raw bits are promised to stay the same between versions of numpy; 53 of them make a double in [0, 1).
    bits = np.random.PCG64(np.random.SeedSequence([SEED, index])).random_raw(BLOCK * width)
    return sentences(automaton(), (bits >> np.uint64(11)).reshape(BLOCK, width) * 2.0**-53)


def load(options: Options) -> Texts:
    """The first `options.texts` headlines, all of them as training text: splitting is the caller's."""
    count = DEFAULT_TEXTS if options.texts is None else options.texts
    texts = [text for index in range(-(-count // BLOCK)) for text in block(index)][:count]
    return Texts(train=texts, validation=None, test=None, source="wire", licence="MIT", revision=REVISION, alphabet=LETTERS, as_drawn=True)


def floor(texts: Sequence[str]) -> Floor:
    """The best possible score on texts of this source; exact, whichever latent topic and template they came from."""
    return predictor().floor(texts)
