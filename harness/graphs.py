"""Capturing kernels on a GPU as one graph, and what to do where that fails."""

import logging
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)


_failed: list[str] = []


def usable() -> bool:
    """Whether graphs are used: after a capture that failed none is made in this process, and none from before may be replayed."""
    return not _failed


def capture(body: Callable[[], None], stream: torch.cuda.Stream, pool: Any = None) -> torch.cuda.CUDAGraph | None:
    """The kernels of `body`, none of which has run; None where graphs aren't `usable`, which is said once.

    The body must have run on this stream before, so that all that it uses is there.
    """
    if not usable():
        return None
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            body()
    except RuntimeError as error:
        _failed.append(str(error))
        # The generator is left as within a capture: it gets a state of its own, which earlier graphs don't read.
        generator().graphsafe_set_state(torch.Generator("cuda").graphsafe_get_state())
        log.warning("Not captured: %s. Kernels are launched one by one, which is slower and gives the same.", error)
        return None
    return graph


def generator() -> torch.Generator:
    """What the current GPU's random numbers are drawn from."""
    return torch.cuda.default_generators[torch.cuda.current_device()]
