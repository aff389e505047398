"""What every ImageNet encoder promises as a plain feature extractor, and what those of inverted residuals share."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.weights import Loaded, Version, first_layer, load


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation by statistics, scale and shift that never change; entries are named as BatchNorm2d's.

    With a few images a step, statistics of the batch are worse than ImageNet's (He et al., arXiv:1703.06870, keep them fixed).
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((features,), value))

    def forward(self, x: Tensor) -> Tensor:
        # Multiplied, then added in place: one tensor kept and no input saved for the gradient, a tenth faster than batch_norm on a CPU.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return (x * scale.to(x.dtype)[:, None, None]).add_(shift.to(x.dtype)[:, None, None])


class Features(nn.Module, abc.ABC):
    """An encoder cut into stages.

    ``forward``: float (B, C, H, W) -> [(B, ``widths[i]``, H / s, W / s) for s in 4, 8, 16, 32], sides rounded up.
    """

    name: str  # of the architecture, as files of weights are known by
    in_channels: int
    widths: tuple[int, ...]
    first: str  # entry of the first layer's kernel
    unused: tuple[str, ...]  # beginnings of entries that belong to the classifier

    @abc.abstractmethod
    def stages(self) -> list[list[nn.Module]]:
        """Modules in the order they are passed, by the stride at their end: 2, 4, 8, 16, 32."""

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages():
            for module in stage:
                x = module(x)
            features.append(x)
        return features[1:]

    def entry(self, key: str) -> str | None:
        """The name here of an entry of the classifier's file, or None for what belongs to the classifier; torchvision's names are ours."""
        return None if key.startswith(self.unused) else key

    def load(self, weights: str, version: Version = "v1") -> Loaded:
        """Fill it from "imagenet" or a file of the whole classifier; the first layer is adapted to the channels."""
        return load(
            self,
            weights,
            self.name,
            version=version,
            rename=self.entry,
            adapt=lambda key, value: first_layer(value, self.in_channels) if key == self.first and value.ndim == 4 else value,
        )

    def freeze(self, stages: int) -> None:
        """Take the first ``stages`` (0..5) out of training: no gradient is computed for them, which saves most where images are large."""
        for stage in self.stages()[:stages]:
            for module in stage:
                module.requires_grad_(False)


class InvertedResiduals(Features):
    """An encoder that is a first convolution and inverted residual blocks, all in ``features``.

    ``halvings`` 5 for all of it; fewer end it at stride 2 ** halvings, where it has a fraction of the parameters (MobileNetV2 at 4: 0.54
    of 1.8 million).
    """

    first = "features.0.0.weight"

    def __init__(self, in_channels: int, blocks: Sequence[Any], halvings: int) -> None:
        super().__init__()
        self.starts = [place for place, block in enumerate(blocks) if place > 0 and block.stride == 2]
        self.ends = (*self.starts, len(blocks))[:halvings]  # a stage ends where the next one halves
        self.in_channels = in_channels
        self.widths = tuple(blocks[end - 1].conv[-2].out_channels for end in self.ends[1:])
        self.expanded_widths = (*(blocks[start].conv[0][0].out_channels for start in self.starts[: halvings - 1]), self.widths[-1])
        self.unused = ("classifier.", *(f"features.{place}." for place in range(self.ends[-1], len(blocks) + 1)))
        blocks[0][0] = first_convolution(blocks[0][0], in_channels)
        self.features = nn.Sequential(*blocks[: self.ends[-1]])

    def stages(self) -> list[list[nn.Module]]:
        blocks = list(self.features)
        return [blocks[start:end] for start, end in pairwise((0, *self.ends))]

    def expanded(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> the widened maps that each further halving begins with, at strides 2, 4, 8 and 16,
        and the last map at stride 32 (or as far as it goes); of ``expanded_widths`` channels."""
        maps = []
        block: Any
        for place, block in enumerate(self.features):
            if place in self.starts:
                x = block.conv[0](x)
                maps.append(x)
                x = block.conv[1:](x)  # a block that halves has no shortcut
            else:
                x = block(x)
        return [*maps, x]


def first_convolution(convolution: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """The same layer, of the same class, for another number of channels."""
    if in_channels == convolution.in_channels:
        return convolution
    make = partial(type(convolution), bias=convolution.bias is not None)
    kernel, stride, padding = convolution.kernel_size, convolution.stride, convolution.padding
    changed = make(in_channels, convolution.out_channels, kernel, stride, padding)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(changed.weight, mode="fan_out", nonlinearity="relu")
    return changed
