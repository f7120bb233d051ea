"""Capturing kernels on a GPU as one graph, and what to do where that fails.

Whoever keeps graphs has a stream of its own: when a graph goes, torch frees the workspaces of its stream, which other graphs that were
captured there still write to. torch hands out 32 streams and then the same ones again.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)


_failed: list[str] = []
_free_streams: list[torch.cuda.Stream] = []


def take_stream() -> torch.cuda.Stream:
    """A stream that no one else captures on, until it is given back."""
    return _free_streams.pop() if _free_streams else torch.cuda.Stream()  # type: ignore[no-untyped-call]


def give_stream(stream: torch.cuda.Stream) -> None:
    """The graphs that were captured on it are gone."""
    _free_streams.append(stream)


def usable() -> bool:
    """Whether graphs are used: after a capture that failed none is made in this process, and none from before may be replayed."""
    return not _failed


def capture(body: Callable[[], None], stream: torch.cuda.Stream, pool: Any = None) -> torch.cuda.CUDAGraph | None:
    """The kernels of `body`, none of which has run; None where graphs aren't `usable`, which is said once.

    The body must have run on this stream before, so that all that it uses is there. Want of memory is raised as it is: it breaks nothing,
    and who hears of it makes room.
    """
    if not usable():
        return None
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            body()
    except torch.OutOfMemoryError:
        raise
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
