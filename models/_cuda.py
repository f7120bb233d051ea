"""When a CUDA device computes a wide MLP by the kernels of `models._fused`, and when by torch's own layers.

Chosen by counting bytes and products, not by timing: no device was there to measure on. `HARNESS_FUSED_MLP=0` takes the plain layers
everywhere, to compare. Shapes as in `models.decoder`.
"""

import os
import warnings
from functools import lru_cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from models._cpu import Activation

VARIABLE = "HARNESS_FUSED_MLP"
# Plain layers take a hidden value through the memory 11 times a step: written and read by the products and the activation, 4 times forward
# and 7 backward. The kernels save all of it, and do 9 products of 2 d_model FLOPs a hidden value instead of 6. An H100 does 295 FLOPs of
# bfloat16 in the time of a byte: 22 bytes are then worth 6,500 FLOPs, three products of d_model 60 cost 360.
# Exact float32 products don't use the tensor cores: 20 FLOPs a byte on an H100, 10 on an A100. 44 bytes are then worth 440 to 880 FLOPs at
# the peak, which such products don't reach: nothing to gain that one could count on.
HALVES = (torch.bfloat16, torch.float16)
# What is left is proportional to d_model: with 9 parts of the width the summands of y and of x's gradient, written and read, are 36 values
# of float32, beside which x, y and their gradients are few. From here on that is at most a fifth of the 11 values of d_ff; at the usual
# d_ff = 4 d_model it would be more than is saved.
RATIO = 32
# Tiles of wider models outgrow the registers, and the 99 KB of shared memory of the smaller devices.
WIDEST = 64
# So many hidden values are 92 MB of traffic, 28 us on an H100: about what starting a few kernels takes from Python. Fewer gain nothing.
MANY = 2**22
# The first with bfloat16.
OLDEST = (8, 0)


def bound_by_memory(n_tokens: int, d_model: int, d_ff: int, dtype: torch.dtype) -> bool:
    """Whether plain layers of this shape would mostly wait for their hidden values to come and go."""
    return dtype in HALVES and d_model <= WIDEST and d_ff >= RATIO * d_model and n_tokens * d_ff >= MANY


def fuses(x_NC: Tensor, up: Tensor) -> bool:
    """Whether these tokens go through the kernels, given the first weights (F, C)."""
    if x_NC.device.type != "cuda" or os.environ.get(VARIABLE) == "0":
        return False
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x_NC.dtype
    return bound_by_memory(len(x_NC), up.shape[1], up.shape[0], dtype) and _works(x_NC.device)


@lru_cache
def _works(device: torch.device) -> bool:
    """Whether Triton is here and can compile and start the kernels: beside a device that it knows it needs a C compiler."""
    if torch.version.hip is not None or find_spec("triton") is None or torch.cuda.get_device_capability(device) < OLDEST:
        return False
    try:
        x_NC, up, down = (torch.zeros(size, dtype=torch.bfloat16, device=device) for size in ((1, WIDEST), (1, WIDEST), (WIDEST, 1)))
        with torch.enable_grad():
            torch.autograd.grad(fused(x_NC.requires_grad_(), up, None, down, None, F.gelu).sum(), x_NC)
        torch.cuda.synchronize(device)
    except Exception as error:
        # Whatever it is, plain layers do the work, only slower.
        warnings.warn(f"wide MLPs are computed by plain layers, since Triton's kernels don't work here: {error}", stacklevel=2)
        return False
    return True


def fused(x_NC: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, activation: Activation) -> Tensor:
    """down(activation(up(x))), (N, C) to (N, C), by the kernels. Triton is imported here, so that nothing else needs it."""
    from models._fused import mlp

    return mlp(x_NC, up, up_bias, down, down_bias, activation is F.gelu)
