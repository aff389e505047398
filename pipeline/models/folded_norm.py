"""Convolutions that have taken in the batch normalisation behind them: what a trained network does anyway, in fewer passes over its maps.

At its statistics a batch normalisation is a scale and a shift of each channel, and a convolution can give its channels that scale and shift
itself. On a CPU, where a network's maps are larger than its caches, each pass that is left out counts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pipeline.models.features import FrozenBatchNorm2d

Convolution = nn.Conv2d | nn.Conv3d
Whole = TypeVar("Whole", bound=nn.Module)


def with_folded_norms(module: Whole) -> Whole:
    """A copy of ``module`` in evaluation mode whose convolutions do what the batch normalisations behind them did; or ``module``
    itself, where there are none.

    They must follow each other in an ``nn.Sequential``. All other weights are shared with ``module``, which keeps its own. Results
    differ by rounding alone.
    """
    module = module.eval()
    if not any(True for _ in _pairs(module)):
        return module
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    folded = copy.deepcopy(module, shared)
    for part, layer, place, (scale, shift) in [*_pairs(folded)]:
        _fold(layer, scale, shift)
        setattr(part, place, nn.Identity())
    return folded


def _pairs(module: nn.Module) -> Iterator[tuple[nn.Sequential, Convolution, str, tuple[Tensor, Tensor]]]:
    """Each convolution that a batch normalisation follows, with its ``nn.Sequential``, the other's name in it, and what that does."""
    for part in [part for part in module.modules() if isinstance(part, nn.Sequential)]:
        for (_, layer), (place, norm) in pairwise([*part.named_children()]):
            if isinstance(layer, Convolution) and (found := _scale_and_shift(norm)) is not None:
                yield part, layer, place, found


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """float64 (channels) each; None where ``norm`` is no batch normalisation, or one that looks at the batch in evaluation, too."""
    if not isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d | FrozenBatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        return None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


@torch.no_grad()
def _fold(layer: Convolution, scale: Tensor, shift: Tensor) -> None:
    kernel, bias = layer.weight, layer.bias
    wide = kernel.double() * scale.view(-1, *(1,) * (kernel.ndim - 1))
    layer.weight = nn.Parameter(wide.to(kernel.dtype), requires_grad=kernel.requires_grad)
    layer.bias = nn.Parameter(
        (shift if bias is None else shift + bias.double() * scale).to(kernel.dtype), requires_grad=kernel.requires_grad
    )
