"""A device that stands for an Apple GPU where there is none: its tensors are computed on the CPU, and refused in float64.

torch without that GPU's library knows no tensor of the device `mps`, so that the stand-in goes by the name of the one without values.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_map_only

APPLE = torch.device("meta")


class OnApple(Tensor):
    """A tensor of the device; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnApple":
        if held.dtype == torch.float64:
            raise TypeError("this device has no float64")
        made: OnApple = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=APPLE
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class Apple(TorchDispatchMode):
    """Within, the device is there. `operators`: how many were asked of it."""

    operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        on_apple = tree_any(lambda value: isinstance(value, OnApple), (args, kwargs))
        if asked != APPLE and not on_apple:
            return func(*args, **kwargs)
        self.operators += 1
        return _computed(func, args, kwargs)


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """On the CPU; what comes out is on the device unless it was asked for elsewhere."""
    asked = kwargs.get("device")
    args, kwargs = tree_map_only(OnApple, lambda tensor: tensor.held, (args, kwargs))
    if asked == APPLE:
        kwargs["device"] = torch.device("cpu")
    out = func(*args, **kwargs)
    return out if asked == torch.device("cpu") else tree_map_only(Tensor, OnApple, out)


def moved_there(model: nn.Module) -> nn.Module:
    """The model with its weights on the device."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(OnApple(weight.detach())))
    return model
